"""What is printed at the end of a training: figures, a sample, where everything is, what to try next."""

import math
import shlex
import textwrap
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import Callback, Trainer

from lightning_seq.callbacks import (
    AttentionLogger,
    GradientClippingMonitor,
    GradientIncidentRecorder,
    SampleLogger,
    TimeGradientMonitor,
)
from lightning_seq.metrics import of_first_loader

WIDTH = 80

_WATCHERS: dict[str, Any] = {
    "clipping": GradientClippingMonitor,
    "incidents": GradientIncidentRecorder,
    "in time": TimeGradientMonitor,
    "attention": AttentionLogger,
}

_Kind = TypeVar("_Kind", bound=Callback)


def end_of_fit(trainer: Trainer, run_directory: Path) -> str:
    """Returns the summary of a run, at most 80 columns wide but for paths."""
    lines = ["", "-" * WIDTH, _validation(trainer), *_divergence(trainer)]
    for name, kind in _WATCHERS.items():
        if watcher := _callback(trainer, kind):
            lines.append(_row(name, watcher.summary()))
    sample = getattr(_callback(trainer, SampleLogger), "last", None)
    if sample:
        lines += [_row("sample", ""), *_quoted(sample)]
    lines += [_row("run", f"{run_directory}{_content(run_directory)}"), *_next(trainer, run_directory)]
    return "\n".join([*lines, "-" * WIDTH])


def _quoted(text: str) -> list[str]:
    text = "".join(each if each.isprintable() or each in "\n\t" else repr(each)[1:-1] for each in text)
    wrapped = [part for line in text.strip().splitlines() for part in textwrap.wrap(line, WIDTH - 4) or [""]]
    return [f"  | {line}".rstrip() for line in wrapped[:8]]


def _row(name: str, text: str) -> str:
    return f"{name:11s} {text}".rstrip()


def _validation(trainer: Trainer) -> str:
    metrics = trainer.callback_metrics
    figures = [
        f"{label} {float(value):.4f}"
        for key, label in (
            ("val_loss", "loss"),
            ("val_perplexity", "perplexity"),
            ("val_bits_per_character", "bits per character"),
            ("val_accuracy", "accuracy"),
        )
        if (value := of_first_loader(metrics, key)) is not None
    ]
    if not figures:
        return _row("validation", "did not run (trainer.val_check_interval)")
    return _row("validation", ", ".join(figures))


def _divergence(trainer: Trainer) -> list[str]:
    if not _diverged(trainer):
        return []
    return [_row("diverged", "try a lower model.learning_rate, or trainer.gradient_clip_val 1")]


def _diverged(trainer: Trainer) -> bool:
    found = (of_first_loader(trainer.callback_metrics, key) for key in ("val_loss", "train_loss"))
    return not all(math.isfinite(value) for value in found if value is not None)


def _content(run_directory: Path) -> str:
    counts = {
        what: len(list(run_directory.rglob(f"figures/*.{suffix}")))
        for what, suffix in (("picture", "png"), ("page", "html"))
    }
    found = [
        name for name in ("config.yaml", "metrics.csv", "samples.txt") if (run_directory / name).exists()
    ]
    if any(counts.values()):
        shown = [f"{count} {what}{'s' if count > 1 else ''}" for what, count in counts.items() if count]
        found.append(f"figures/ ({', '.join(shown)})")
    found += [f"checkpoints/{path.name}" for path in sorted(run_directory.glob("checkpoints/*.ckpt"))]
    return "".join(f"\n{'':11s}   {name}" for name in found)


def _next(trainer: Trainer, run_directory: Path) -> list[str]:
    """Returns the command that lets the best model, else the last, write; none where training diverged."""
    found = [run_directory / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    best = next((str(path) for path in found if path.exists()), None)
    if (
        best is None
        or _diverged(trainer)
        or not callable(getattr(trainer.lightning_module, "generate", None))
    ):
        return []
    words = ["lightning-seq", "generate", "--prompt", "The "]
    if sampler := _callback(trainer, SampleLogger):
        words[-1:] = [sampler.prompt, "--temperature", str(sampler.options["temperature"])]
    return [_row("next", f"{shlex.join(words)} \\"), _row("", f"  --checkpoint {shlex.quote(best)}")]


def _callback(trainer: Trainer, kind: type[_Kind]) -> _Kind | None:
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]
