"""Loggers that fail or block, as a training asks them."""

import signal
import threading
import time

import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_seq.cli import enduring_loggers
from lightning_seq.cli.enduring_loggers import enduring


class Blocking(CSVLogger):
    """Asked for the second time it waits for what never comes, and tries again where that fails."""

    asked = 0

    def log_metrics(self, metrics, step=None):
        self.asked += 1
        while self.asked > 1:
            try:
                threading.Event().wait()
            except Exception:
                continue
        super().log_metrics(metrics, step)


def test_a_logger_that_blocks_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(enduring_loggers.PATIENCE, "log_metrics", 0.3)
    before = signal.getsignal(signal.SIGALRM)
    logger = enduring(Blocking(tmp_path, name="", version=""))
    logger.log_metrics({"loss": 1.0}, 0)
    begun = time.monotonic()
    with pytest.warns(UserWarning, match=r"Blocking failed in log_metrics \(no answer in 0\.3 s\)"):
        logger.log_metrics({"loss": 0.5}, 1)
    for step in range(2, 100):
        logger.log_metrics({"loss": 0.1}, step)
    assert time.monotonic() - begun < 10
    assert logger.asked == 2
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_alarm_that_somebody_else_set_still_rings(tmp_path):
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        enduring(CSVLogger(tmp_path, name="", version="")).log_metrics({"loss": 1.0}, 0)
        time.sleep(0.4)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung == [True]


def test_other_threads_may_log_too(tmp_path):
    logger = enduring(CSVLogger(tmp_path, name="", version=""))
    thread = threading.Thread(target=logger.log_metrics, args=({"loss": 1.0}, 0))
    thread.start()
    thread.join()
    logger.save()
    assert "1.0" in (tmp_path / "metrics.csv").read_text()
