"""The physics section moves in a browser as it says in its text."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from physics import opened_png, payload, section

from reflow.report.plane.svg import SIZE


@pytest.fixture
def page(browser: Any, flows: None, tmp_path: Path) -> Iterator[Any]:  # noqa: ARG001
    """Open the section in a window of a telephone's width; nothing may be said on the console."""
    file = tmp_path / "page.html"
    file.write_text("<!doctype html><title>t</title>" + section())
    opened = browser.new_page(viewport={"width": 360, "height": 800}, reduced_motion="reduce")
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(file.as_uri())
    yield opened
    opened.close()
    assert not said


CANVASES = "[...document.querySelectorAll('canvas')].map(canvas => canvas.toDataURL())"


PARTS = "[...document.querySelectorAll('[data-part]')].map(path => path.getAttribute('d'))"


def go_to(page: Any, moment: int) -> None:
    slider = page.locator("input")
    slider.evaluate("(it, to) => { it.value = to; it.dispatchEvent(new Event('input')) }", moment)


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+", path)]


def test_a_browser_moves_all_pictures_through_t(page: Any) -> None:
    before = page.evaluate(CANVASES) + page.evaluate(PARTS)
    page.locator("input").focus()
    page.keyboard.press("End")
    after = page.evaluate(CANVASES) + page.evaluate(PARTS)
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert page.locator("input").get_attribute("aria-valuetext") == "t = 1.00"
    ends = [flow["masses"][-1] for flow in payload(section())["flows"]]
    said = page.locator("output").inner_text()
    assert said == f"t = 1.00: total mass of base {ends[0]:.4f}, of reflow {ends[1]:.4f}"
    page.locator("button").click()  # plays from the beginning, in quarters
    page.wait_for_function("document.querySelector('output').textContent.startsWith('t = 0.25')")
    assert page.locator("output").get_attribute("aria-live") == "off"
    page.locator("button").click()
    assert page.locator("output").inner_text().startswith("t = 0.25")
    assert page.locator("output").get_attribute("aria-live") == "polite"
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_what_is_told_beside_the_pictures_is_of_that_t_and_field(page: Any) -> None:
    for moment in (0, 17):
        go_to(page, moment)
        for number, flow in enumerate(payload(section())["flows"]):
            told = page.locator("[data-fluid] figcaption").nth(number).inner_text().replace("\u2212 ", "-")
            mass, off, *figures = numbers(told.replace("+ ", "+"))
            assert mass + off == pytest.approx(flow["masses"][moment], abs=6e-6)
            expected = [flow["differences"][moment], flow["expected"][moment]]
            assert figures == pytest.approx(expected, abs=6e-4)  # of 3 decimals


def test_the_script_draws_what_stands_still_without_it(page: Any) -> None:
    still = re.findall(r'data-part="(\w+)" d="([^"]*)"', section())[2:]  # but for the lines that meet
    moved = page.evaluate(PARTS)[2:]
    for (part, drawn), again in zip(still, moved, strict=True):
        one, other = numbers(drawn), numbers(again)
        assert len(one) == len(other) > 0, part
        # Velocities travel as bytes: half a step of 127, of an arrow of 1.4 cells, and two roundings.
        assert np.abs(np.array(one) - other).max() <= 2, part


def test_lines_that_meet_meet_when_and_where_they_should(page: Any) -> None:
    ((point_x, point_y),) = re.findall(r'data-part="lines" d="M(\d+) (\d+)h0', section())
    go_to(page, 13)  # t = 0.65
    lines, through = page.evaluate(PARTS)[:2]
    places = np.array([numbers(dot)[:2] for dot in (lines + through).split("h0")[:-1]])
    assert len(places) == 8
    # The ends are rounded, and so is the point; the trajectory through it was solved to a tolerance.
    assert np.abs(places[:-1] - [float(point_x), float(point_y)]).max() <= 1.5
    assert np.abs(places[-1] - [float(point_x), float(point_y)]).max() <= 4


def test_canvases_show_the_shades_at_their_places(page: Any) -> None:
    """The middles of the cells are as dark as the shades say, in either theme after a change of it."""
    for scheme, way in (("light", -1), ("dark", 1)):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        go_to(page, 17)
        pictures = page.evaluate(CANVASES)
        scale = opened_png(pictures[0]).width / SIZE
        for number in range(4):
            flow = payload(section())["flows"][number // 2]
            kind = ("density", "histogram")[number % 2]
            side = flow[kind]["side"]
            levels = np.frombuffer(base64.b64decode(flow[kind]["shades"]), np.uint8).reshape(-1, side, side)
            picture = np.asarray(opened_png(pictures[number]).convert("RGB"), float)[..., 0]
            places = (SIZE / 2 + flow["halves"][17] * ((2 * np.arange(side) + 1) / side - 1)) * scale
            within = (places >= 0) & (places < len(picture))
            at = places[within].astype(int)
            shown = levels[17][np.ix_(within, within)]
            # Red falls from the card by the accent to the ink in light, and rises in dark.
            seen, shown = picture[np.ix_(at, at)].ravel(), shown.ravel()
            assert way * np.corrcoef(seen, shown)[0, 1] > 0.9, (scheme, number)
            if kind == "histogram":  # whose cells are not smoothed: one colour for one shade, in order
                assert (np.diff(way * seen[np.argsort(shown, kind="stable")]) >= 0).all(), (scheme, number)
