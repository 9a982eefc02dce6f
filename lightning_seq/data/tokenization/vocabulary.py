"""Which tokenizer a DataModule uses: one of its own making, a file's, or a checkpoint's."""

from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers import Tokenizer

from lightning_seq.data.disk import write_whole
from lightning_seq.data.sources.documents import Split, digest
from lightning_seq.data.tokenization.ready_made import (
    is_ready_made,
    load_ready_made,
    load_tokenizer,
    parse_tokenizer,
)
from lightning_seq.data.tokenization.tokenizers import (
    MENDING,
    build_tokenizer,
    check_size,
    kind_of,
    vocabulary_size,
)
from lightning_seq.errors import InputError

FORMAT = 2


def check_spec(spec: str, max_vocab_size: int | None = None) -> None:
    """Refuses a ``tokenizer`` that is no kind, no file's name and no id, and a size that does not fit it."""
    if not isinstance(spec, str):
        raise InputError(f"tokenizer is {spec!r} ({type(spec).__name__}), no string; {MENDING}")
    if not is_ready_made(spec):
        check_size(spec, max_vocab_size)
    elif max_vocab_size is not None:
        raise InputError(
            f"max_vocab_size is {max_vocab_size}, and the tokenizer {spec!r} has a vocabulary of its own; "
            'leave max_vocab_size out, or choose "word" or "bpe"'
        )


def cached(
    spec: str,
    cache_dir: Path,
    fingerprint: Callable[[Split], str],
    texts: Callable[[Split], Iterable[str]],
    max_vocab_size: int | None = None,
) -> Tokenizer:
    """Returns the tokenizer of ``spec``; one made from the training text is kept in ``cache_dir``."""
    if is_ready_made(spec):
        return load_ready_made(spec)
    if spec == "byte":
        return build_tokenizer(spec, [])
    key = digest([str(FORMAT), spec, str(max_vocab_size), fingerprint("train")])
    path = cache_dir / "tokenizers" / f"{key[:32]}.json"
    try:
        return load_tokenizer(path)
    except InputError:  # none yet, or a damaged one
        tokenizer = build_tokenizer(spec, texts("train"), max_vocab_size)
        write_whole(path, tokenizer.to_str().encode("utf-8"))
        return tokenizer


def agreed(content: str, spec: str) -> Tokenizer:
    """Returns a checkpoint's tokenizer, unless ``spec`` asks for one that it cannot stand for.

    One of the same kind made from another text is welcome: the model knows the checkpoint's ids.
    """
    theirs = parse_tokenizer(content, "the checkpoint's tokenizer")
    if is_ready_made(spec):
        if load_ready_made(spec).to_str() != theirs.to_str():
            raise InputError(
                f"the checkpoint was trained with another tokenizer ({_in_words(theirs)}) than {spec!r}; "
                "give the checkpoint itself as the data's tokenizer, or train anew without the checkpoint"
            )
    elif kind_of(theirs) != spec:
        raise InputError(
            f"the checkpoint was trained with a {kind_of(theirs)} tokenizer and the data asks for {spec!r}; "
            "give the checkpoint as the data's tokenizer, or train anew without the checkpoint"
        )
    return theirs


def _in_words(tokenizer: Tokenizer) -> str:
    return f"{kind_of(tokenizer)}, {vocabulary_size(tokenizer):,} ids"
