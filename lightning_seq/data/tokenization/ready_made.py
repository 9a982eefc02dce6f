"""Tokenizers that need no text: of a file, of a checkpoint, or of the Hugging Face Hub."""

import re
from pathlib import Path

from tokenizers import Tokenizer

from lightning_seq import checkpoints, distributed_checkpoints
from lightning_seq.data.sources.hub import tokenizer_from_hub
from lightning_seq.data.tokenization.tokenizers import MENDING, TRAINED_KINDS
from lightning_seq.errors import InputError, did_you_mean

SUFFIXES = (".json", ".ckpt")

# A file's name ends in letters; that of a model may well end in a number, as in Qwen/Qwen2.5-0.5B.
HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/(?![\w.-]*\.[A-Za-z]+(@|$))\w[\w.-]*)(@(?P<revision>\S+))?")


def is_ready_made(spec: str) -> bool:
    """Says whether ``spec`` names a path or a repository of the Hub rather than a kind of tokenizer."""
    return _is_path(spec) or (spec not in TRAINED_KINDS and HUB_ID.fullmatch(spec) is not None)


def load_ready_made(spec: str) -> Tokenizer:
    """Returns the tokenizer of a path, or of a repository of the Hub where there is no such path."""
    if _is_path(spec) or not (named := HUB_ID.fullmatch(spec)):
        return load_tokenizer(spec)
    return parse_tokenizer(_read(tokenizer_from_hub(named["repository"], named["revision"])), spec)


def _is_path(spec: str) -> bool:
    if spec in TRAINED_KINDS:
        return False
    return spec.endswith(SUFFIXES) or Path(spec).expanduser().exists()


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Returns the tokenizer of a tokenizer.json, or of its directory, or the one a checkpoint carries."""
    file = Path(path).expanduser()
    distributed = checkpoints.is_distributed(file)
    if file.is_dir() and not distributed:
        file /= "tokenizer.json"
    if not (file.is_file() or distributed):
        siblings = [str(each) for each in file.parent.glob("*") if each.suffix in SUFFIXES]
        raise InputError(f"no tokenizer at {str(path)!r}{did_you_mean(str(file), siblings)}; {MENDING}")
    content = _from_checkpoint(file) if distributed or file.suffix == ".ckpt" else _read(file)
    return parse_tokenizer(content, str(path))


def parse_tokenizer(content: str, source: str) -> Tokenizer:
    """Returns the tokenizer that the JSON ``content`` describes; ``source`` says in errors whose it is."""
    try:
        tokenizer = Tokenizer.from_str(content)
        tokenizer.no_truncation()  # of a model that reads so much at a time; this is about all of the text
        tokenizer.no_padding()
    except Exception as error:  # the Rust side raises bare Exception
        reason = str(error).splitlines()[0]
        raise InputError(f"{source} does not describe a tokenizer ({reason}); {MENDING}") from error
    if not tokenizer.get_vocab_size():
        raise InputError(f"the tokenizer of {source} has an empty vocabulary; {MENDING}")
    return tokenizer


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the tokenizer {str(file)!r} ({error}); {MENDING}") from error


def _from_checkpoint(file: Path) -> str:
    content = (distributed_checkpoints.read(file).get(checkpoints.KEY) or {}).get("tokenizer")
    if not isinstance(content, str):
        raise InputError(f"the checkpoint {str(file)!r} carries no tokenizer; {MENDING}")
    return content
