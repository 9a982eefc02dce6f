"""The directory of an incident: what is in it, how it is written, and how it is read again.

``incident.json`` tells what happened; ``checkpoint.ckpt`` holds everything as it was before the step;
``batches-rank0.pt`` the batches of a rank and the states of its random number generators, ``.txt`` the same
batches to be read; ``incident.png`` is the picture.
"""

import json
import math
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_seq import prompts
from lightning_seq.callbacks.incidents.step import StepWindow
from lightning_seq.callbacks.probe import inputs_of
from lightning_seq.errors import InputError
from lightning_seq.networks.spreading import whole

FORMAT = 1
CHECKPOINT, REPORT, PICTURE = "checkpoint.ckpt", "incident.json", "incident.png"
_UNSAVED = "not saved: "
PART = ".part"  # at the end of a directory's name, until it is whole


def begin(trainer: Trainer, step: int, most: int) -> tuple[Path | None, str]:
    """Makes a directory for an incident, or says why there is none; the same on every rank.

    Args:
        trainer: Whose run directory it goes to.
        step: Of the incident.
        most: How many incidents a run directory may hold.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None, "fast_dev_run leaves no files"
    found = _make(trainer, step, most) if trainer.is_global_zero else ("", "")
    path, problem = trainer.strategy.broadcast(found)
    return (Path(path) if path else None), problem


def _make(trainer: Trainer, step: int, most: int) -> tuple[str, str]:
    # not trainer.log_dir, which is a collective
    folders = (logger.log_dir for logger in trainer.loggers)
    root = Path(next(filter(None, folders), trainer.default_root_dir)) / "incidents"
    try:
        taken = [path for path in root.glob("step-*") if path.suffix != PART]
        if len(taken) >= most:
            return "", f"max_incidents={most} are saved already"
        names = (f"step-{step:06d}" + (f"-{n}" if n else "") for n in range(len(taken) + 1))
        path = next(root / name for name in names if root / name not in taken)
        part = path.with_name(path.name + PART)
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir(parents=True)
    except OSError as error:
        return "", f"{root} cannot be written ({error.strerror or error})"
    return str(part), ""


def write_batches(part: Path, rank: int, window: StepWindow, module: Any, step: int) -> None:
    """Writes what one rank's step was made of."""
    content = {
        "batches": [plain(batch) for batch in window.batches],
        "randomness": [plain(states) for states in window.randomness],
        "losses": [float(loss) for loss in window.losses],
    }
    torch.save(content, part / f"batches-rank{rank}.pt")
    pages = []
    for i, batch in enumerate(window.batches):
        heading = f"step {step}, rank {rank}, batch {i + 1} of {len(window.batches)}"
        loss = f", loss {content['losses'][i]:.6g}" if i < len(content["losses"]) else ""
        pages.append(f"=== {heading}{loss} ===\n{_readable(batch, getattr(module, 'tokenizer', None))}\n")
    text = part / f"batches-rank{rank}.txt"
    text.write_text("\n".join(pages), encoding="utf-8", errors="backslashreplace")


def write_report(part: Path, report: dict[str, Any]) -> None:
    """Writes what happened."""
    lines = [
        f'"{name}": {json.dumps(jsonable(value), allow_nan=False)}'
        for name, value in {"format": FORMAT, **report}.items()
    ]
    (part / REPORT).write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")


def finish(part: Path) -> Path:
    """Gives a whole directory its name."""
    return part.rename(part.with_name(part.name.removesuffix(PART)))


def read_report(directory: Path) -> dict[str, Any]:
    """Returns what happened, with numbers that are not finite as floats again.

    Raises:
        InputError: It is no directory of an incident, or not a whole one.
    """
    path = directory / REPORT
    if not path.is_file():
        what = "holds no incident.json" if directory.is_dir() else "is no directory"
        raise InputError(f"{directory} {what}: give one that GradientIncidentRecorder wrote, .../step-000123")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no whole JSON file ({error}): take another incident") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise InputError(f"{path} has another format than this version reads ({FORMAT}): record it anew")
    return {key: _number(value) for key, value in report.items()}


def read_batches(directory: Path, rank: int) -> dict[str, Any]:
    """Returns batches, states of random number generators and losses of a rank.

    Raises:
        InputError: The file is missing, or not whole.
    """
    path = directory / f"batches-rank{rank}.pt"
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"no {path}: the incident is not whole, take another one") from error
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is cut short or no file of an incident: take another one") from error
    return content


def plain(value: Any) -> Any:
    """Returns tensors on the CPU, without what else their storages hold, in containers that are safe to load.

    Of what is neither a tensor, a container nor a plain value only its description is kept.
    """
    if isinstance(value, Tensor):
        return whole(value.detach()).cpu().clone()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(value)).clone()
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(plain(each) for each in value)
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    module = type(value).__module__.split("._")[0]  # without private parts: Python 3.13 has pathlib._local
    return f"{_UNSAVED}{module}.{type(value).__qualname__}"


def unsaved(content: Any) -> str | None:
    """Returns the class of something that :func:`plain` could not keep, if there is any."""
    found = (x for x in tree_leaves(content) if isinstance(x, str) and x.startswith(_UNSAVED))
    return next((x.removeprefix(_UNSAVED) for x in found), None)


def _readable(batch: Any, tokenizer: Any) -> str:
    """Returns the rows of a batch as ids and, where there is a tokenizer, as text."""
    inputs = inputs_of(batch)
    if inputs is None or inputs.is_floating_point():
        return f"{type(batch).__name__} without ids that could be written"
    lines = []
    for number, row in enumerate(inputs.reshape(len(inputs), -1).tolist()):
        if text := decoded(row, tokenizer):
            lines.append(f"row {number}: {text!r}")
        lines.append(f"row {number} ids: {' '.join(map(str, row))}")
    return "\n".join(lines)


def decoded(ids: list[int], tokenizer: Any) -> str:
    """Returns the text of ``ids``, or an empty string where the tokenizer of a module cannot tell it."""
    try:
        if isinstance(tokenizer, Tokenizer):
            return prompts.written(ids, tokenizer)
        return str(tokenizer.decode(ids)) if callable(getattr(tokenizer, "decode", None)) else ""
    except Exception:  # somebody else's tokenizer: the ids are written all the same
        return ""


def jsonable(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes a string."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: jsonable(each) for key, each in value.items()}
    return [jsonable(each) for each in value] if isinstance(value, list | tuple) else value


def _number(value: Any) -> Any:
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, dict):
        return {key: _number(each) for key, each in value.items()}
    return [_number(each) for each in value] if isinstance(value, list) else value
