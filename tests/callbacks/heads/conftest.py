"""One headless browser for all tests of pages, and what pictures are made of."""

import shutil
from typing import NamedTuple

import pytest

from lightning_seq.callbacks.heads.canvas import Canvas

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser on the PATH: none of {', '.join(NAMES)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(QUIET))
        yield browser
        browser.close()


class Drawn(NamedTuple):
    """What was put on canvases since it was last emptied."""

    texts: list
    pictures: list

    def words(self):
        return " ".join(self.texts)

    def clear(self):
        self.texts.clear()
        self.pictures.clear()


@pytest.fixture
def drawn(monkeypatch):
    """All texts and pictures that are drawn, in order, drawn all the same."""
    drawn = Drawn([], [])

    def recording(name, kept, which):
        draw = getattr(Canvas, name)

        def recorded(canvas, *args, **options):
            kept.append(args[which])
            draw(canvas, *args, **options)

        monkeypatch.setattr(Canvas, name, recorded)

    recording("text", drawn.texts, 2)
    recording("upright", drawn.texts, 2)
    recording("paste", drawn.pictures, 0)
    return drawn
