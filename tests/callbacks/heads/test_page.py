"""The page in a real browser: what people see and do, and that nothing leaves it."""

import base64
import html
import json
import re
import time
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lightning_seq.callbacks.heads.page import pack_shares, write_page
from lightning_seq.callbacks.heads.view import MEASURES, LayerView, View
from lightning_seq.errors import InputError

WORDS = ("The", " cat", " sat", "\n", "The", " dog")
PIECES = ("T", "he", " ", "c", "at", " sat", "\n", "The d", "og")
NAN = float("nan")


def causal(heads, size, seed=0):
    scores = np.random.default_rng(seed).normal(0, 2, (heads, size, size))
    shares = np.where(np.tri(size, dtype=bool), np.exp(scores), 0)
    return (shares / shares.sum(-1, keepdims=True)).astype(np.float32)


def layer(name, maps, **measures):
    values = {key: np.array(value, np.float32) for key, value in measures.items()}
    return LayerView(name, f"blocks.{name[-1]}.attention", tuple(range(len(maps))), maps, values)


def view(name="model", tokens=WORDS, layers=2, heads=3, **more):
    made = tuple(
        layer(f"layer {k}", causal(heads, len(tokens), k), entropy=np.linspace(0.1, 0.9, heads))
        for k in range(layers)
    )
    return View(name, tuple(tokens), made, **more)


def restored(shares, packed):
    codes = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8)
    return ((codes / 255.0) ** 2).reshape(shares.shape)


# ---- the file


@given(arrays(np.float32, array_shapes(min_dims=3, max_dims=3), elements=st.floats(0, 1, width=32)))
def test_shares_come_back_as_precisely_as_promised(shares):
    back = restored(shares, pack_shares(shares))
    error = np.abs(back - shares)
    assert error.max() <= 0.004
    assert (error <= 0.004 * np.sqrt(shares) + 2e-5).all()  # 0.13 points at 10 %, 0.04 at 1 %
    assert ((back == 0) == (shares == 0)).all()


def test_what_is_no_share_is_cut_off_and_nothing_is_changed_in_place():
    shares = np.array([[[NAN, -1, 7, 1e-30, 0.25]]], np.float32)
    before = shares.copy()
    np.testing.assert_allclose(restored(shares, pack_shares(shares)), [[[0, 0, 1, 0, 0.25]]], atol=2e-3)
    np.testing.assert_array_equal(shares, before)


def test_refuses_what_cannot_be_shown():
    with pytest.raises(InputError, match="no views"):
        write_page([], "title")
    with pytest.raises(InputError, match="'empty' has no layers"):
        write_page([View("empty", WORDS, ())], "title")
    flat = layer("layer 0", causal(2, 6)[0])
    with pytest.raises(InputError, match=r"'layer 0' of view 'm' got maps of shape \(6, 6\)"):
        write_page([View("m", WORDS, (flat,))], "title")
    short = layer("layer 0", causal(2, 6), entropy=[0.5])
    with pytest.raises(InputError, match=r"'entropy' .* got shape \(1,\).* 2 heads"):
        write_page([View("m", WORDS, (short,))], "title")


def test_a_small_page_is_small_and_quick_and_a_large_one_bearable():
    small = view(tokens=WORDS * 10, layers=4, heads=4)
    assert len(write_page([small], "small")) < 100_000
    start = time.perf_counter()
    for _ in range(5):
        write_page([small], "small")
    assert (time.perf_counter() - start) / 5 < 0.05  # about 2 ms on an idle machine
    maps = causal(12, 256)
    large = View("large", tuple("x" * 256), tuple(layer(f"layer {k}", maps) for k in range(12)))
    start = time.perf_counter()
    assert len(write_page([large], "large")) < 10_000_000
    assert time.perf_counter() - start < 3  # about 0.2 s on an idle machine


# ---- the browser


class Tab:
    """A tab that notes what goes wrong: requests but for its own file, messages, errors, dialogs."""

    def __init__(self, browser, before="", **options):
        self.context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(5000)
        self.wrong, self.address = [], ""
        self.page.on("request", lambda r: self.wrong.append(r.url) if r.url != self.address else None)
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append(dialog.message), dialog.dismiss()))
        if before:
            self.page.add_init_script(before)

    def show(self, path):
        self.address = path.as_uri()
        self.page.mouse.move(0, 0)
        self.page.goto(self.address)
        self.page.wait_for_selector("body[data-ready=yes]", state="attached")
        return self.page


@pytest.fixture(scope="module")
def usual_tab(browser):
    tab = Tab(browser)  # one for all: a new one takes as long as a test
    yield tab
    tab.context.close()


@pytest.fixture
def open_page(browser, usual_tab, tmp_path):
    """Opens views from a disk; at the end nothing may have gone wrong."""
    tabs = [usual_tab]

    def opened(views, title="Heads", note="", **options):
        path = tmp_path / "page.html"
        path.write_text(write_page(views, title, note), encoding="utf-8")
        if options:
            tabs.append(Tab(browser, **options))
        return tabs[-1].show(path)

    yield opened
    for tab in tabs[1:]:
        tab.context.close()
    wrong = [what for tab in tabs for what in tab.wrong]
    usual_tab.wrong.clear()
    assert wrong == []


def token(page, index, pane=0):
    return page.locator(".pane").nth(pane).locator(f".token[data-index='{index}']")


def top(page, pane=0):
    """The best tokens and their shares, as written."""
    rows = page.locator(".pane").nth(pane).locator(".top li")
    read = "rows => rows.map(row => ['q', 'b'].map(part => row.querySelector(part).textContent))"
    return [tuple(row) for row in rows.evaluate_all(read)]


def percent(text):
    return float(text.strip("<%")) / 100


def classes(page, name, pane=0):
    found = page.locator(".pane").nth(pane).locator(f".token.{name}")
    return found.evaluate_all("tokens => tokens.map(token => Number(token.dataset.index))")


def chosen(page):
    return [page.locator(f"select.{name}").first.input_value() for name in ("layer", "head")]


def test_the_browser_unpacks_the_maps(open_page):
    shown = view()
    page = open_page([shown])
    for at, made in enumerate(shown.layers):
        codes = page.evaluate("at => Array.from(DATA.views[0].layers[at].codes)", at)
        back = (np.array(codes).reshape(made.maps.shape) / 255) ** 2
        np.testing.assert_allclose(back, made.maps, atol=0.004)
        mean = page.evaluate("at => Array.from(page.panes[0].codes(page.panes[0].view.layers[at], MEAN))", at)
        back = (np.array(mean).reshape(6, 6) / 255) ** 2
        np.testing.assert_allclose(back, made.maps.mean(0), atol=0.008)


def test_pointing_at_a_token_shows_what_it_looks_at(open_page):
    shown = view()
    page = open_page([shown])
    token(page, 4).hover()
    assert classes(page, "active") == [4]
    row = shown.layers[0].maps[0, 4]
    best = int(row.argmax())
    name, share = top(page)[0]
    assert name == WORDS[best].replace(" ", "␣").replace("\n", "⏎")
    assert percent(share) == pytest.approx(row[best], abs=0.006)
    shares = [percent(share) for _, share in top(page)]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 5
    assert classes(page, "unseen") == [5]  # the future
    colours = [
        token(page, at).evaluate("e => getComputedStyle(e).backgroundColor")
        for at in (best, row.argsort()[2])
    ]
    red_green_blue = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours]
    assert red_green_blue[0] < red_green_blue[1]  # darker: more


def test_the_other_direction_shows_who_looks_at_it(open_page):
    shown = view()
    page = open_page([shown])
    token(page, 1).hover()
    page.get_by_text("is looked at by", exact=True).first.click()
    column = shown.layers[0].maps[0, :, 1]
    assert "is looked at by" in page.locator(".detail h3").inner_text()
    assert percent(top(page)[0][1]) == pytest.approx(column.max(), abs=0.006)
    assert classes(page, "unseen") == [0]  # it is before, and sees nothing of token 1


def test_a_pinned_token_stays_until_escape(open_page):
    shown = view()
    page = open_page([shown])
    token(page, 4).click()
    token(page, 2).hover()
    assert classes(page, "active") == classes(page, "pinned") == [4]
    readout = page.locator(".readout").inner_text()
    assert "token 4 ‘The’ → token 2 ‘␣sat’" in readout
    assert percent(readout.split(": ")[1]) == pytest.approx(shown.layers[0].maps[0, 4, 2], abs=0.006)
    page.keyboard.press("Escape")
    assert classes(page, "active") == classes(page, "pinned") == []
    token(page, 1).hover()
    assert classes(page, "active") == [1]
    token(page, 1).click()
    token(page, 1).click()
    assert classes(page, "pinned") == []


def test_lists_grid_and_arrow_keys_choose_the_head(open_page):
    shown = view()
    page = open_page([shown])

    def check(layer_at, head):
        assert chosen(page) == [str(layer_at), str(head)]
        assert page.locator(".grid button[aria-pressed=true]").count() == 1
        token(page, 5).hover()
        maps = shown.layers[layer_at].maps
        expected = (maps.mean(0) if head < 0 else maps[head])[5].max()
        assert percent(top(page)[0][1]) == pytest.approx(expected, abs=0.009)

    check(0, 0)
    page.select_option("select.layer", "1")
    page.select_option("select.head", "2")
    check(1, 2)
    page.locator(".grid button[title='layer 0, head 1']").click()
    check(0, 1)
    page.keyboard.press("ArrowDown")
    check(1, 1)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    check(1, -1)  # the mean
    page.keyboard.press("ArrowRight")
    check(1, -1)  # and no further
    page.keyboard.press("ArrowUp")
    check(0, -1)
    assert "mean of all heads" in page.locator(".map h3").inner_text()


def test_the_map_and_the_text_point_at_each_other(open_page):
    shown = view()
    page = open_page([shown])
    canvas = page.locator("canvas").last
    margin, cell = page.evaluate("[page.panes[0].map.margin, page.panes[0].map.cell]")
    canvas.hover(position={"x": margin + 1.5 * cell, "y": margin + 3.5 * cell})
    assert classes(page, "active") == [3]
    assert classes(page, "crossed") == [1, 3]
    assert page.locator(".readout").inner_text().startswith("token 3 ‘⏎’ → token 1 ‘␣cat’: ")
    line = "(canvas, y) => Array.from(canvas.getContext('2d').getImageData(0, y, canvas.width, 1).data)"
    first_row = np.array(canvas.evaluate(line, int(margin + 0.5 * cell))).reshape(-1, 4)

    def at(column):
        return first_row[int(margin + (column + 0.25) * cell)].tolist()

    assert at(5) == [223, 225, 230, 255]  # grey: the future
    assert at(0) == [52, 15, 78, 255]  # dark: all of it
    token(page, 5).hover()
    assert classes(page, "crossed") == []


def test_the_keyboard_alone_is_enough(open_page):
    page = open_page([view()])
    token(page, 0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert classes(page, "active") == [2]
    page.keyboard.press("Enter")
    assert classes(page, "pinned") == [2]
    assert token(page, 2).get_attribute("aria-selected") == "true"


def test_models_with_other_tokens_are_compared_by_place(open_page):
    pieces = view("pieces", PIECES, layers=1, heads=1)
    page = open_page([view("words"), pieces])
    token(page, 1).hover()  # " cat"
    assert classes(page, "linked", 1) == [2, 3]
    assert classes(page, "active", 1) == [4]  # the last piece: after it both have read the same
    share = pieces.layers[0].maps[0, 4].max()
    assert percent(top(page, 1)[0][1]) == pytest.approx(share, abs=0.006)
    token(page, 7, 1).hover()  # "The d" is in two words
    assert classes(page, "linked", 0) == [4]
    assert classes(page, "active", 0) == [5]
    page.locator(".pane").nth(1).locator("select.layer").focus()  # its own choice
    page.locator(".pane").nth(0).locator("select.layer").select_option("1")
    assert chosen(page) == ["1", "0"]
    assert page.locator("select.layer").nth(1).input_value() == "0"


def test_places_are_found_where_texts_differ_a_little(open_page):
    others = {
        "a mark before, spaces lost": (("<s>", "The", "cat", "sat", "The", "dog"), 5),
        "halves of a character": (("Th", "\ufffd", "\ufffd", " cat sat\nThe d", "og"), 4),
        "lower case": (("the", " cat", " sat", "\n", "the", " dog"), 5),
    }
    page = open_page([view(), *(view(name, tokens) for name, (tokens, _) in others.items())])
    token(page, 5).hover()
    for pane, (_, place) in enumerate(others.values(), start=1):
        assert classes(page, "active", pane) == [place]


def test_hostile_text_stays_text(open_page):
    evil = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>"
    made = view(evil, [evil, "<b>", "&amp;", "$title", "\u202e", "\ud800"], predictions=((evil, 0.5),) * 6)
    named = LayerView(evil, evil, made.layers[0].heads, made.layers[0].maps, {})
    page = open_page([View(evil, made.tokens, (named,), made.predictions)], evil + "$data", evil)
    assert page.title() == evil + "$data"
    assert page.locator("h1").inner_text() == evil + "$data"
    assert page.locator("h2").inner_text() == page.locator("#note").inner_text() == evil
    assert page.locator("script").count() == 2
    assert page.locator("img, .strip b").count() == 0
    assert token(page, 0).text_content() == evil.replace(" ", "␣")
    assert [token(page, at).text_content() for at in range(1, 6)] == [
        "<b>",
        "&amp;",
        "$title",
        "[U+202E]",
        "[U+D800]",
    ]
    token(page, 4).hover()
    assert "alert" in page.locator(".predicts").inner_text()


def test_white_space_is_seen_and_the_text_still_reads(open_page):
    tokens = ("Two\n", " lines", "\t", "", "\x00", "\ufffd")
    page = open_page([view(tokens=tokens)])
    texts = [token(page, at).text_content() for at in range(6)]
    assert texts == ["Two⏎", "␣lines", "⇥", "∅", "␀", "\ufffd"]
    assert token(page, 1).bounding_box()["y"] > token(page, 0).bounding_box()["y"]


def test_predictions_are_told(open_page):
    predictions = tuple((word, 0.25) for word in (" dog", " sat", "!", "A", " dog", "."))
    page = open_page([view(predictions=predictions)])
    token(page, 1).hover()
    said = page.locator(".predicts").inner_text()
    assert said == "After it the model expects ␣sat (25%); the text has ␣sat."


def test_the_grid_shows_measures_even_where_they_are_missing(open_page):
    first = layer("layer 0", causal(2, 6), entropy=[0.25, NAN], max_logit=[3, 30])
    second = layer("layer 1", causal(2, 6), entropy=[NAN, NAN])
    page = open_page([View("model", WORDS, (first, second))])
    offered = page.locator("[name=cells] option").all_inner_texts()
    assert offered == ["maps", MEASURES["entropy"].title, MEASURES["max_logit"].title]
    page.select_option("[name=cells]", "entropy")
    assert page.locator(".grid button").all_inner_texts() == ["0.25", "–", "0.25", "–", "–", "–"]
    assert page.locator(".grid .missing").count() == 4
    assert MEASURES["entropy"].explanation in page.locator(".key").inner_text()
    page.select_option("[name=cells]", "max_logit")
    assert page.locator(".grid button").all_inner_texts() == ["3.00", "30.0", "16.5", "–", "–", "–"]
    assert page.locator(".key .marks").inner_text().split() == ["0.00", "30.0"]
    measures = page.locator(".measures").inner_text()
    assert MEASURES["max_logit"].explanation in measures
    assert MEASURES["distance"].explanation not in measures  # not taken


def test_stretched_colours_show_even_attention(open_page):
    maps = np.tril(np.ones((1, 6, 6), np.float32)) / np.arange(1, 7, dtype=np.float32)[:, None]
    page = open_page([View("even", WORDS, (layer("layer 0", maps),))])
    token(page, 5).hover()
    colour = "e => getComputedStyle(e).backgroundColor"
    before = token(page, 0).evaluate(colour)
    page.locator("[name=stretch]").check()
    assert token(page, 0).evaluate(colour) == "rgb(52, 15, 78)" != before  # the palette's last


def test_saliency_says_what_it_is(open_page):
    saliency = LayerView("saliency", "", (0,), causal(1, 6), {})
    page = open_page([View("lstm", WORDS, (saliency,))])
    assert "gradient of the prediction" in page.locator(".about").inner_text()
    token(page, 3).hover()
    assert page.locator(".detail h3").inner_text() == "Token 3 ‘⏎’ depends on"
    assert not page.locator(".heads").is_visible()  # nothing to choose
    assert not page.locator(".measures").is_visible()


def test_maps_of_something_else_than_the_tokens_have_numbers(open_page):
    maps = np.full((2, 6, 4), 0.25, np.float32)
    maps[0, 2] = [0.5, 0.5, 0, 0]
    page = open_page([View("translator", WORDS, (layer("cross 0", maps), *view(layers=1).layers))])
    assert "something else" in page.locator(".about").inner_text()
    assert "foreign" in page.locator(".strip").get_attribute("class")
    margin, cell = page.evaluate("[page.panes[0].map.margin, page.panes[0].map.cell]")
    canvas = page.locator("canvas").last
    canvas.hover(position={"x": margin + 1.5 * cell, "y": margin + 2.5 * cell})
    assert page.locator(".readout").inner_text() == "place 2 → place 1: 50%"
    assert [name for name, _ in top(page)] == ["place 0", "place 1"]
    page.get_by_text("is looked at by", exact=True).first.click()
    page.select_option("select.layer", "1")
    token(page, 5).hover()
    assert classes(page, "active") == [5]
    page.select_option("select.layer", "0")  # where there is no column 5
    assert top(page) == []


def test_light_and_dark(open_page):
    look = "() => ['body', '.card'].map(s => getComputedStyle(document.querySelector(s)).backgroundColor)"
    page = open_page([view()], color_scheme="light")
    light = page.evaluate(look)
    token(page, 5).click()
    colour = token(page, 0).evaluate("e => e.style.background")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("() => matchMedia('(prefers-color-scheme: dark)').matches")
    assert all(a != b for a, b in zip(light, page.evaluate(look), strict=True))
    assert token(page, 0).evaluate("e => e.style.background") != colour  # repainted at once


def test_the_page_is_never_wider_than_the_screen(open_page):
    name = "a/very/long/path/" * 8 + "without-a-place-to-break.ckpt"
    views = [view(name, WORDS * 8, layers=3, heads=12), view("b", ["x" * 300, *WORDS[1:]])]
    page = open_page(views, "T" * 200, color_scheme="dark")
    cards = "[...document.querySelectorAll('.card')].map(c => [c.scrollWidth, c.clientWidth])"
    for width in (380, 820, 1900):
        page.set_viewport_size({"width": width, "height": 800})
        frames = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        page.evaluate(frames)  # the map follows the width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert all(inner <= outer for inner, outer in page.evaluate(cards))


def test_touch_pins(open_page):
    page = open_page([view()], viewport={"width": 380, "height": 800}, has_touch=True)
    token(page, 2).tap()
    assert classes(page, "pinned") == [2]
    token(page, 4).tap()
    assert classes(page, "pinned") == [4]


def test_works_in_a_sandboxed_frame(browser):
    outer = (
        f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(write_page([view()], "framed"))}"></iframe>'
    )
    page = browser.new_page()
    wrong = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_content(outer)
    frame = page.frame_locator("iframe")
    frame.locator("body[data-ready=yes]").wait_for(state="attached")
    frame.locator(".token").nth(3).click()
    assert frame.locator(".token.pinned").count() == 1
    assert frame.locator(".top li").count() == 4
    page.close()
    assert wrong == []


def test_the_page_cannot_reach_anything(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(write_page([view()], "closed"), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    blocked = page.evaluate(
        """() => new Promise((done) => {
          const seen = [];
          setTimeout(() => done(seen.sort()), 2000);
          document.addEventListener('securitypolicyviolation', (event) => {
            seen.push(event.effectiveDirective);
            if (seen.length === 3) done(seen.sort());
          });
          fetch('https://example.invalid/').catch(() => {});
          new Image().src = 'https://example.invalid/a.png';
          document.body.insertAdjacentHTML('beforeend', '<p onclick="1">'); // no script of a corpus either
        })"""
    )
    assert blocked == ["connect-src", "img-src", "script-src-attr"]
    page.close()


def test_an_old_browser_is_told(open_page):
    page = open_page([view()], before="delete window.DecompressionStream")
    assert "This browser cannot unpack the maps" in page.locator("#problem").inner_text()
    assert token(page, 1).text_content() == "␣cat"
    assert "entropy" in page.locator(".measures").inner_text()


def test_its_data_are_json_of_all_that_it_shows():
    text = write_page([view()], "title")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(found[1])
    assert tuple(data["views"][0]["tokens"]) == WORDS
    assert text.count("<script") == 2
    assert not re.search(r"(src|href)=", text)
