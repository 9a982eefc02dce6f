"""What is printed at the end of a training: figures, a sample, where everything is, what to try next."""

import shlex
import textwrap
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

WIDTH = 80


def end_of_fit(trainer: Trainer, run_directory: Path) -> str:
    """Returns the summary of a run, at most 80 columns wide but for paths."""
    lines = ["", "-" * WIDTH, _validation(trainer)]
    if clipping := _callback(trainer, "GradientClippingMonitor"):
        lines.append(_row("gradients", clipping.summary()))
    sample = getattr(_callback(trainer, "SampleLogger"), "last", None)
    if sample:
        lines += [
            _row("sample", ""),
            *(f"  | {line[: WIDTH - 4]}" for line in sample.strip().splitlines()[:8]),
        ]
    lines += [_row("run", f"{run_directory}{_content(run_directory)}"), *_next(trainer)]
    return "\n".join([*lines, "-" * WIDTH])


def _quoted(text: str) -> list[str]:
    wrapped = [part for line in text.strip().splitlines() for part in textwrap.wrap(line, WIDTH - 4) or [""]]
    return [f"  | {line}".rstrip() for line in wrapped[:8]]


def _row(name: str, text: str) -> str:
    return f"{name:11s} {text}".rstrip()


def _validation(trainer: Trainer) -> str:
    metrics = trainer.callback_metrics
    figures = [
        f"{label} {float(metrics[key]):.4f}"
        for key, label in (
            ("val_loss", "loss"),
            ("val_perplexity", "perplexity"),
            ("val_bits_per_character", "bits per character"),
        )
        if key in metrics
    ]
    if not figures:
        return _row(
            "validation", f"did not run in {trainer.global_step:,} steps (trainer.val_check_interval)"
        )
    return _row("validation", ", ".join(figures))


def _content(run_directory: Path) -> str:
    pictures = len(list(run_directory.rglob("figures/*.png")))
    found = [
        name for name in ("config.yaml", "metrics.csv", "samples.txt") if (run_directory / name).exists()
    ]
    if pictures:
        found.append(f"figures/ ({pictures} pictures)")
    return "".join(f"\n{'':11s}   {name}" for name in [*found, "checkpoints/"])


def _next(trainer: Trainer) -> list[str]:
    best, sampler = _best(trainer), _callback(trainer, "SampleLogger")
    if best is None:
        return []
    words = ["lightning-seq", "generate", "--checkpoint", best, "--prompt", "The "]
    if sampler is not None:
        words[-1:] = [sampler.prompt, "--temperature", str(sampler.options["temperature"])]
    return [_row("next", shlex.join(words))]


def _best(trainer: Trainer) -> str | None:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            return _relative(callback.best_model_path or callback.last_model_path)
    return None


def _relative(path: str) -> str | None:
    if not path:
        return None
    absolute, here = Path(path).resolve(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def _callback(trainer: Trainer, name: str) -> Any:
    return next((c for c in trainer.callbacks if type(c).__name__ == name), None)  # type: ignore[attr-defined]
