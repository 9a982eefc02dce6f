"""A white sheet to draw pictures of attention on.

Pillow does it, as maps are pixels and hundreds of labels: matplotlib takes ten times as long, and pictures
are drawn in the middle of trainings.
"""

from functools import cache
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INK, FAINT = (24, 24, 24), (150, 150, 150)

_Ink = tuple[int, int, int]


class Canvas:
    """A sheet of pixels, counted from the corner at the top left.

    Attributes:
        image: What was drawn so far.

    Args:
        width: Its pixels in a row.
        height: Its rows.
    """

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), "white")
        self._draw = ImageDraw.Draw(self.image)

    def text(
        self, x: float, y: float, text: str, size: int = 11, anchor: str = "la", bold: bool = False
    ) -> None:
        """Writes.

        Args:
            x: Where.
            y: Where.
            text: One line or more.
            size: Of the letters, in pixels.
            anchor: What of the text is there, as Pillow says it: left, middle or right; then ascender,
                middle, baseline (s) or descender.
            bold: Whether to write it in bold.
        """
        self._draw.text((x, y), text, INK, font(size, bold), anchor, spacing=size // 3)

    def upright(self, x: float, y: float, text: str, size: int = 11, anchor: str = "md") -> None:
        """Writes one line from the bottom to the top.

        Args:
            x: Where.
            y: Where.
            text: One line.
            size: Of the letters, in pixels.
            anchor: What of the turned text is there: left, middle or right; then its upper end (a), its
                middle or its lower end (d).
        """
        letters = font(size)
        length, height = round(letters.getlength(text)), sum(letters.getmetrics())
        strip = Image.new("L", (max(length, 1), height))
        ImageDraw.Draw(strip).text((0, 0), text, 255, letters)
        turned = strip.transpose(Image.Transpose.ROTATE_90)
        left = x - {"l": 0, "m": height / 2, "r": height}[anchor[0]]
        top = y - {"a": 0, "m": length / 2, "d": length}[anchor[1]]
        self.image.paste(INK, (round(left), round(top)), turned)

    def paste(self, picture: "NDArray[np.uint8]", x: int, y: int) -> None:
        """Puts a picture, (height, width, 3), with its corner at the top left there."""
        self.image.paste(Image.fromarray(picture), (x, y))

    def line(self, x: float, y: float, to_x: float, to_y: float, ink: _Ink = FAINT) -> None:
        """Draws a line of one pixel."""
        self._draw.line((x, y, to_x, to_y), ink)


def width_of(text: str, size: int = 11, bold: bool = False) -> int:
    """How many pixels wide the longest line of a text is."""
    return max((round(font(size, bold).getlength(line)) for line in text.split("\n")), default=0)


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, in letters of so many pixels."""
    from matplotlib import get_data_path

    path = f"{get_data_path()}/fonts/ttf/DejaVuSans{'-Bold' if bold else ''}.ttf"
    # the plain layout: the other one is not everywhere, and pictures should be the same everywhere
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
