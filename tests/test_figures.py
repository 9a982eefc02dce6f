import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger

from lightning_seq.figures import figure_path, log_figure, new_figure, pixels, png_bytes


@pytest.fixture
def figure():
    figure = new_figure(3, 2)
    figure.add_axes((0, 0, 1, 1)).imshow(np.eye(4), aspect="auto")
    return figure


class Unknown(Logger):
    """A logger of somebody else's."""

    name = "unknown"
    version = 0
    fails = False

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self.folder = folder

    @property
    def save_dir(self):
        if self.fails:
            raise ConnectionError("the server is away")
        return self.folder

    def log_metrics(self, *_, **__):
        pass

    def log_hyperparams(self, *_, **__):
        pass


def test_pixels_and_png(figure):
    assert png_bytes(figure).startswith(b"\x89PNG")
    image = pixels(figure)
    assert image.shape == (200, 300, 3)
    assert image.dtype == np.uint8
    assert image.std() > 0


def test_csv_logger_gets_a_file(figure, tmp_path):
    logger = CSVLogger(tmp_path, "", "")
    log_figure(logger, "attention/heads", figure, 500)
    path = tmp_path / "figures" / "attention_heads-000500.png"
    assert path.read_bytes() == png_bytes(figure)
    assert path == figure_path(logger, "attention/heads", 500)


def test_file_names_are_legal_everywhere(tmp_path):
    name = figure_path(CSVLogger(tmp_path, "", ""), 'a/b\\c:d*e?f"g<h>i|j', 1234567).name
    assert name == "a_b_c_d_e_f_g_h_i_j-1234567.png"


def test_tensorboard_gets_an_image(figure, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, "", "")
    log_figure(logger, "attention/heads", figure, 500)
    logger.experiment.close()
    (event,) = EventAccumulator(logger.log_dir).Reload().Images("attention/heads")
    assert (event.step, event.width, event.height) == (500, 300, 200)
    assert not (tmp_path / "figures").exists()


@pytest.mark.slow
def test_wandb_gets_an_image_and_text_offline(tmp_path):
    # in a process of its own: wandb's service and its exit hooks outlive a test
    script = """
import sys
from lightning.pytorch.loggers import WandbLogger
from lightning_seq.figures import log_figure, new_figure
from lightning_seq.callbacks.samples import _log_text
import numpy as np
logger = WandbLogger(project="test", save_dir=sys.argv[1], offline=True)
figure = new_figure(3, 2)
figure.add_axes((0, 0, 1, 1)).imshow(np.eye(4), aspect="auto")
log_figure(logger, "attention/heads", figure, 500)
_log_text(logger, [(400, 2.5, "there was"), (500, None, "once upon a time")], 499)
logger.experiment.finish()
"""
    command = [sys.executable, "-W", "error::UserWarning:lightning_seq", "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "could not take" not in done.stderr
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (image,) = (run / "files" / "media" / "images" / "attention").glob("heads*.png")
    assert image.read_bytes().startswith(b"\x89PNG")
    (table,) = (run / "files" / "media" / "table").glob("samples*.json")
    assert "once upon a time" in table.read_text(encoding="utf-8")
    (log,) = run.glob("*.wandb")
    assert b"trainer/global_step" in log.read_bytes()


def test_unknown_loggers_get_a_file_where_they_have_a_directory(figure, tmp_path):
    log_figure(Unknown(tmp_path), "curve", figure, 3)
    assert (tmp_path / "figures" / "curve-000003.png").exists()
    log_figure(DummyLogger(), "curve", figure, 3)


def test_a_failing_logger_is_warned_about_once(figure):
    broken = type("Broken", (Unknown,), {"fails": True})(None)
    with pytest.warns(UserWarning, match="Broken could not take a figure.*the server is away") as warnings:
        [log_figure(broken, "curve", figure, step) for step in (3, 4)]
    assert len(warnings) == 1
    homeless = type("Homeless", (Unknown,), {})(None)
    with pytest.warns(UserWarning, match="Homeless .* neither images nor a directory"):
        log_figure(homeless, "curve", figure, 3)
