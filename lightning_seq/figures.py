"""Pictures, and one door for them to every Lightning logger.

Pictures are `matplotlib.figure.Figure` objects that know no window: nothing to show, nothing to close; or
Pillow's images, where they are maps of pixels. matplotlib is imported by what draws, not by this module,
because start-up counts.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_warn
from PIL.Image import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_warned: "WeakKeyDictionary[Logger, set[str]]" = WeakKeyDictionary()


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, at 100 pixels an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png_bytes(picture: "Figure | Image") -> bytes:
    """The picture as the content of a PNG file."""
    buffer = io.BytesIO()
    # level 1: a few milliseconds instead of tens, for a file a little larger
    if isinstance(picture, Image):
        picture.save(buffer, "png", compress_level=1)
    else:
        picture.savefig(buffer, format="png", pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def pixels(picture: "Figure | Image") -> "NDArray[np.uint8]":
    """The picture as red, green and blue, (height, width, 3)."""
    if isinstance(picture, Image):
        return np.array(picture)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(picture)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def log_figure(logger: Logger, key: str, figure: "Figure | Image", step: int) -> None:
    """Sends a picture to a logger; call it on rank zero.

    Weights & Biases and TensorBoard get an image under `key`. Every other logger gets the file
    `<log_dir>/figures/<key>-<step>.png` with the step in six digits; what a file name may not hold on some
    system is replaced, so `attention/heads` becomes `figures/attention_heads-000500.png`.

    A logger that fails is warned about once and ends no training.
    """
    with forgiving(logger, "a figure"):
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [pixels(figure)], step=step)
        elif isinstance(logger, TensorBoardLogger):
            experiment: Any = logger.experiment
            experiment.add_image(key, pixels(figure), step, dataformats="HWC")
        elif not isinstance(logger, DummyLogger):
            path = figure_path(logger, key, step)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png_bytes(figure))


def log_page(logger: Logger, key: str, html: str, step: int) -> None:
    """Sends an HTML page to a logger; call it on rank zero.

    Weights & Biases gets it as `wandb.Html` under `key`; every other logger, TensorBoard too, gets the file
    `<log_dir>/figures/<key>-<step>.html`. A logger that fails is warned about once and ends no training.
    """
    with forgiving(logger, "a page"):
        if isinstance(logger, WandbLogger):
            import wandb

            # as a file, since a string may be taken for a path; as it is, since it is whole by itself
            logger.log_metrics({key: wandb.Html(io.StringIO(html), inject=False)}, step=step)  # type: ignore[dict-item]
        elif not isinstance(logger, DummyLogger):
            path = figure_path(logger, key, step, "html")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(html, encoding="utf-8")


def log_line(logger: Logger, key: str, text: str, step: int) -> None:
    """Sends a line of text to a logger; call it on rank zero.

    Weights & Biases has it in the run's summary, TensorBoard among its texts; others do without.
    A logger that fails is warned about once and ends no training.
    """
    with forgiving(logger, "a line of text"):
        if isinstance(logger, WandbLogger):
            logger.experiment.summary[key] = text
        elif isinstance(logger, TensorBoardLogger):
            experiment: Any = logger.experiment
            experiment.add_text(key, text, step)


def loggers_of_text(trainer: Trainer, log_text: bool) -> list[Logger]:
    """Returns the loggers that may be given what holds text: all, or those that write into the run's files.

    Args:
        trainer: The trainer.
        log_text: Whether text may leave the run's directory.
    """
    if log_text or not trainer.loggers:
        return trainer.loggers
    local: list[Logger] = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
    return local or [CSVLogger(trainer.default_root_dir, name="", version="")]  # for its directory alone


def figure_path(logger: Logger, key: str, step: int, suffix: str = "png") -> Path:
    """Where `log_figure` and `log_page` put the file of a logger that takes none."""
    folder = logger.log_dir or logger.save_dir
    if folder is None:
        raise ValueError("it has neither images nor a directory (log_dir, save_dir)")
    name = re.sub(r"[^\w.-]", "_", key)
    return Path(folder) / "figures" / f"{name}-{step:06d}.{suffix}"


@contextmanager
def forgiving(logger: Logger, what: str) -> Iterator[None]:
    """Turns an error of a logger into a warning, once for each logger: a picture is not worth a training."""
    try:
        yield
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        line = f"{type(logger).__name__} could not take {what} and goes on without: {cause}"
        warned = _warned.setdefault(logger, set())
        if line not in warned:
            warned.add(line)
            rank_zero_warn(line)
