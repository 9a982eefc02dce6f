"""Which tokenizer a DataModule uses: one of its own making, a file's, or a checkpoint's."""

from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers import Tokenizer

from lightning_seq.data.disk import write_whole
from lightning_seq.data.documents import Split, digest
from lightning_seq.data.tokenizers import (
    MENDING,
    TRAINED_KINDS,
    build_tokenizer,
    is_path,
    kind_of,
    load_tokenizer,
    parse_tokenizer,
    vocabulary_size,
)
from lightning_seq.errors import InputError, did_you_mean

FORMAT = 1


def check_spec(spec: str) -> None:
    """Refuses a ``tokenizer`` argument that is neither a kind nor a file's name."""
    if spec not in TRAINED_KINDS and not is_path(spec):
        raise InputError(f"unknown tokenizer {spec!r}{did_you_mean(spec, TRAINED_KINDS)}; {MENDING}")


def cached(
    spec: str,
    cache_dir: Path,
    fingerprint: Callable[[Split], str],
    texts: Callable[[Split], Iterable[str]],
) -> Tokenizer:
    """Returns the tokenizer of ``spec``; one made from the training text is kept in ``cache_dir``."""
    if is_path(spec):
        return load_tokenizer(spec)
    if spec == "byte":
        return build_tokenizer(spec, [])
    path = cache_dir / "tokenizers" / f"{digest([str(FORMAT), spec, fingerprint('train')])[:32]}.json"
    try:
        return load_tokenizer(path)
    except InputError:  # none yet, or a damaged one
        tokenizer = build_tokenizer(spec, texts("train"))
        write_whole(path, tokenizer.to_str().encode("utf-8"))
        return tokenizer


def agreed(content: str, spec: str) -> Tokenizer:
    """Returns a checkpoint's tokenizer, unless ``spec`` asks for one that it cannot stand for.

    One of the same kind made from another text is welcome: the model knows the checkpoint's ids.
    """
    theirs = parse_tokenizer(content, "the checkpoint's tokenizer")
    if is_path(spec):
        if load_tokenizer(spec).to_str() != theirs.to_str():
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
