"""What an evaluation found, as a table for people and as JSON for programs."""

import json
import math
import textwrap
from collections.abc import Iterator
from typing import Any

from lightning_seq.evaluation.scoring import TOKENS_FROM_START

COLUMNS = 80
NAMES = 20  # columns of the names


def as_json(result: dict[str, Any]) -> str:
    """Returns one object in one line; what is not finite is null, as JSON has no other word for it."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({name: plain(value) for name, value in result.items()}, allow_nan=False)


def as_table(result: dict[str, Any]) -> str:
    """Returns a line for each figure, at 80 columns."""
    after = " " * NAMES
    lines = [
        textwrap.fill(f"{name:{NAMES}s}{value}", COLUMNS, subsequent_indent=after, break_on_hyphens=False)
        for name, value in _rows(result)
    ]
    return "\n".join(lines)


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    split = f", {result['split']} split" if result["split"] else ""
    yield "checkpoint", f"{result['checkpoint']} ({result['model']})"
    yield "text", f"{result['text']}{split}, sha256 {result['sha256'][:8]}"
    yield "training text", result["comparison"]
    yield "protocol", result["protocol"]
    yield "tokens scored", f"{result['tokens']:,} (all but the first)"
    yield "loss", f"{result['loss']:.4f} nats per token"
    if (start := result.get("initial_state_loss")) is not None:
        yield (
            "initial-state loss",
            f"{start:.4f} nats per token, over up to {TOKENS_FROM_START} tokens read without a past",
        )
    yield "perplexity", f"{_number(result['perplexity'])} per token"
    for unit in ("character", "byte"):
        if (bits := result.get(f"bits_per_{unit}")) is not None:
            yield f"bits per {unit}", f"{bits:.4f} ({result[f'{unit}s']:,} {unit}s)"
    if (perplexity := result.get("word_perplexity")) is not None:
        count = f"{result['words']:,} words, each newline counted as one"
        yield "word perplexity", f"{_number(perplexity)} ({count})"
    if result["unknown"]:
        yield "unknown tokens", _unknown(result)
    yield "seconds", f"{result['seconds']:.1f} ({result['device']})"


def _number(value: float) -> str:
    return f"{value:,.3f}" if value < 1e6 else f"{value:.3e}"


def _unknown(result: dict[str, Any]) -> str:
    written = min(result["unknown_written"], result["unknown"])
    count = f"{result['unknown']:,} ({result['unknown_fraction']:.1%}) are {result['unknown_token']}"
    if written == result["unknown"]:
        return f"{count}, all of them so written in the text"
    return (
        f"{count}, {written:,} of them so written in the text: that a token is unknown is easier to predict "
        "than which one it is, so compare only figures of one vocabulary"
    )
