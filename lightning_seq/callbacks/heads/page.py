"""One HTML file in which the heads of one or more models can be looked at, token by token."""

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_seq.callbacks.heads.view import MEASURES, LayerView, View
from lightning_seq.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SCRIPTS = ("page_text.js", "page_map.js", "page_grid.js", "page_detail.js", "page_pane.js", "page.js")
_POLICY = (
    "default-src 'none'; style-src '{style}'; script-src '{script}'; base-uri 'none'; form-action 'none'"
)


def write_page(views: Sequence[View], title: str, note: str = "") -> str:
    """Makes a page that shows what each token looks at, for any head of any model.

    It is one file that loads nothing: it opens from a disk without a network, forbids itself every
    connection, and works in a sandboxed frame such as that of `wandb.Html` (with `inject=False`, for what
    would be injected is a connection). Shares are rounded: see :func:`pack_shares`.

    Args:
        views: One model each, on the same text. Their tokens may differ: the page compares them by where they
            are in the text.
        title: What the page is about.
        note: A sentence or two below the title.

    Returns:
        The content of the file, to be encoded in UTF-8.

    Raises:
        InputError: Nothing to show, or maps or measures whose shape does not fit their layer.
    """
    if not views:
        raise InputError("write_page got no views, expected at least one: give it a model on a text")
    data = {
        "title": title,
        "note": note,
        "measures": {name: vars(measure) for name, measure in MEASURES.items()},
        "views": [_view(view) for view in views],
    }
    # ASCII survives every encoding, lone surrogates too; without "<" nothing in it can end the script
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    page, fixed = _template()
    safe_title = escape(title.encode("utf-8", "replace").decode())
    return page.substitute(fixed, title=safe_title, data=text)


def pack_shares(shares: "NDArray[np.float32]") -> str:
    """Rounds shares to 8 bits and packs them: zlib, then base64.

    A byte is 255 times the root of the share, so that small shares stay apart: the error is at most 0.4
    points at 100 %, 0.13 at 10 % and 0.04 at 1 %. Only 0 itself becomes the byte 0, which the page draws as
    not visible; NaN counts as 0.

    Args:
        shares: Any shape, in C order; what lies outside [0, 1] is cut off.
    """
    roots = np.nan_to_num(shares)
    np.clip(roots, 0, 1, out=roots)
    seen = roots > 0
    np.sqrt(roots, out=roots)
    roots *= 255
    roots += 0.5
    codes = np.maximum(roots.astype(np.uint8), seen)
    # level 1: a third of the time of the default, for a few per cent more bytes
    return base64.b64encode(zlib.compress(codes.tobytes(), 1)).decode("ascii")


def _view(view: View) -> dict[str, Any]:
    if not view.layers:
        raise InputError(f"view {view.name!r} has no layers, expected at least one: leave it out of the page")
    return {
        "name": view.name,
        "tokens": view.tokens,
        "layers": [_layer(view, layer) for layer in view.layers],
        "predictions": [(token, _number(share)) for token, share in view.predictions],
    }


def _layer(view: View, layer: LayerView) -> dict[str, Any]:
    heads = len(layer.heads)
    shape = np.shape(layer.maps)
    if len(shape) != 3 or shape[0] != heads or 0 in shape:
        raise InputError(
            f"{layer.name!r} of view {view.name!r} got maps of shape {shape}, expected "
            f"(heads, queries, keys), {heads} heads and none of them 0"
        )
    measures = {name: layer.measures[name] for name in MEASURES if name in layer.measures}
    for name, values in measures.items():
        if np.shape(values) != (heads,):
            raise InputError(
                f"measure {name!r} of {layer.name!r} of view {view.name!r} got shape {np.shape(values)}, "
                f"expected one number for each of its {heads} heads"
            )
    return {
        "name": layer.name,
        "module": layer.module,
        "heads": [int(head) for head in layer.heads],
        "shape": shape,
        "maps": pack_shares(layer.maps),
        "measures": {name: [_number(value) for value in values] for name, values in measures.items()},
    }


def _number(value: float) -> float | None:
    """With four digits; None where there is no number that JSON knows."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


@cache
def _template() -> tuple[Template, dict[str, str]]:
    """The page without its data, and what in it is always the same."""
    folder = files("lightning_seq.callbacks.heads")

    def read(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8")

    style = read("page.css")
    script = "\n".join(read(name) for name in _SCRIPTS)
    policy = _POLICY.format(style=_hash(style), script=_hash(script))
    return Template(read("page.html")), {"style": style, "script": script, "policy": policy}


def _hash(text: str) -> str:
    """What a Content-Security-Policy calls a script or a style that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
