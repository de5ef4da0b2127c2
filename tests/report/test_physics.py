"""The physics section shows what closed forms say, whole, still and moving."""

import base64
import io
import json
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Exact
from networks import model_of
from PIL import Image
from torch import Tensor

from reflow.artifacts.facts import ModelFacts
from reflow.errors import ReflowError
from reflow.models import Model, build
from reflow.recipes.recipe import MlpSettings
from reflow.report.numbers import tell
from reflow.report.plane.continuity import sampling_variation, total_variation
from reflow.report.plane.section import physics_section
from reflow.report.plane.svg import SIZE, Window, shade_png, shades

MEAN, STD = torch.arange(2.0).sin() / 2, 0.6  # of the data of the fixture `exact`


def model(
    steps: int | None = None,
    classes: int | None = None,
    event: tuple[int, ...] = (2,),
    stage: str = "train",
) -> Model:
    net = build(MlpSettings(kind="mlp", width=8, blocks=1), (2,), classes)
    facts = ModelFacts(event, classes, steps)
    return model_of(net, facts, "distill" if steps else stage).eval().requires_grad_(False)


DATA = MEAN + STD * torch.randn(4000, 2, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def flows(exact: Exact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give base models the field of the fixture `exact`, reflowed ones that of its straight lines."""
    bent = Model.forward

    def forward(self: Model, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if self.header.stage != "reflow":
            return bent(self, x, t, label)
        time, mean = t[:, None], exact.mean(x)
        return mean + (STD - 1) * (x - time * mean) / (1 - time + time * STD)

    monkeypatch.setattr(Model, "forward", forward)


@cache
def section() -> str:
    """Return the section of all kinds of models with the fixture `flows`, which must be in use."""
    models = {"base": model(), "reflow": model(stage="reflow"), "distill": model(steps=1)}
    return physics_section(models, DATA, 0)


def payload(page: str) -> dict[str, Any]:
    text = re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert text
    return json.loads(text[1])  # type: ignore[no-any-return]


def opened_png(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def told(pattern: str, page: str) -> list[float]:
    found = re.search(pattern, page, re.DOTALL)
    assert found, pattern
    return [float(number.replace("\u2212", "-")) for number in found.groups()]


@pytest.mark.usefixtures("flows")
def test_the_section_tells_the_closed_forms_of_a_gaussian_flow() -> None:
    page = section()
    found = payload(page)
    for flow in found["flows"]:
        assert abs(np.array(flow["masses"]) - 1).max() < 1e-3
        # Halves of sums of 729 independent differences scatter by a twentieth of their mean.
        ratio = np.array(flow["differences"]) / np.array(flow["expected"])
        assert ((ratio > 0.8) & (ratio < 1.2)).all()
    # Of 200 trajectories; |x0|^2 per dimension has the relative standard deviation 1 / sqrt(200).
    (bent,) = told(r"</b>: S&nbsp;=&nbsp;([\d.]+)", page)
    assert bent == pytest.approx(STD * (2 - math.pi / 2), rel=0.25)
    # 4,000 points of the data, some hundreds of them near enough to the point to count.
    mean = told(r"over all data, \((\S+), (\S+)\)", page)
    assert mean == pytest.approx(told(r"<b>base</b> has learned \((\S+), (\S+)\)", page), abs=0.1)
    # One step of the base leads to the mean of the data.
    ends = re.findall(r'physics-small" d="M(\d+) (\d+)h0', page)
    reach = 1.2 * float(DATA.abs().max())
    assert np.array(ends[0], float) == pytest.approx(Window(reach).place(MEAN), abs=1)


def width(flow: dict[str, Any], kind: str, moment: int) -> float:
    """Return the standard deviation of a picture of a density, from its shades."""
    side = flow[kind]["side"]
    levels = np.frombuffer(base64.b64decode(flow[kind]["shades"]), np.uint8).reshape(-1, side, side)
    mass = (levels[moment] / 255.0) ** 2  # the shade is the root of the density
    half = flow["halves"][moment] / SIZE * 2 * 3.0  # of the picture, whose window reaches to 3
    axis = ((np.arange(side) + 0.5) / side * 2 - 1) * half
    share = mass.sum(0) / mass.sum()
    return float(np.sqrt((share * axis**2).sum() - (share * axis).sum() ** 2))


@pytest.mark.usefixtures("flows")
def test_each_velocity_field_carries_a_density_of_its_own() -> None:
    base, reflow = payload(section())["flows"]
    for moment, t in ((5, 0.25), (10, 0.5), (20, 1.0)):
        bent, straight = math.hypot(1 - t, t * STD), 1 - t + t * STD
        # Shades have 255 steps and the histogram, cut off at the density's peak, 2,500 particles.
        assert width(base, "density", moment) == pytest.approx(bent, rel=0.01)
        assert width(reflow, "density", moment) == pytest.approx(straight, rel=0.01)
        assert width(base, "histogram", moment) == pytest.approx(bent, rel=0.06)
        assert width(reflow, "histogram", moment) == pytest.approx(straight, rel=0.06)


@pytest.mark.usefixtures("flows")
def test_the_table_has_the_masses_of_all_times() -> None:
    body = section().partition("<tbody>")[2].partition("</tbody>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("</tr>")[:-1]]
    found = payload(section())
    assert [float(row[0]) for row in rows] == found["times"]
    for number, flow in enumerate(found["flows"]):
        for row, mass in zip(rows, flow["masses"], strict=True):
            told, off = (
                float(cell.replace("\u2212", "-")) for cell in row[1 + 4 * number : 3 + 4 * number]
            )
            assert (told, off) == pytest.approx((mass, mass - 1), abs=6e-6)  # of 5 decimals
        worst = max(abs(mass - 1) for mass in flow["masses"])
        assert f"{tell(worst, 1)} for {flow['name']}" in section()


@pytest.mark.usefixtures("flows")
def test_one_input_gives_one_section_complete_in_itself() -> None:
    page = section()
    section.cache_clear()
    assert section() == page
    assert len(page) < 1_500_000
    assert not re.search(r"https?://|@import|url\(|<link|src=", re.sub(r'"data:[^"]*"', "", page))
    assert "nan" not in page


def test_models_of_classes_show_the_class_that_is_asked_for(exact: Exact) -> None:
    page = physics_section({"base": model(classes=3)}, DATA, 0, label=2, level=4)
    assert "class 2" in page and "<h4>" in page
    states = np.array(payload(page)["flows"][0]["states"])
    x0 = (torch.from_numpy(states[0]) / SIZE * 2 - 1) * torch.tensor([3.0, -3.0])
    end = Window(3.0).place(exact.end(x0, torch.full((len(x0),), 2)))
    # Two roundings to units of the picture, and the tolerance of the solver.
    assert abs(end - states[-1]).max() <= 4


@pytest.mark.parametrize(
    ("models", "shape", "label", "words"),
    [
        ({"base": model(event=(1, 8, 8))}, (5, 2), None, "not on points"),
        ({"base": model()}, (5, 3), None, "points in the plane"),
        ({"student": model(steps=1)}, (5, 2), None, "velocity field"),
        ({"base": model(classes=3)}, (5, 2), None, "3 classes"),
        ({"base": model()}, (5, 2), 1, "no classes"),
    ],
)
def test_what_has_no_physics_is_refused(
    models: dict[str, Model], shape: tuple[int, int], label: int | None, words: str
) -> None:
    with pytest.raises(ReflowError, match=words):
        physics_section(models, torch.zeros(shape), 0, label=label)


def test_pictures_have_x_to_the_right_and_y_upwards() -> None:
    density = np.zeros((5, 5))
    density[4, 3] = 4.0  # x = 1, y = 0.5
    levels = shades(density, 16.0)
    assert np.argwhere(levels).tolist() == [[1, 4]]
    assert levels[1, 4] == round(255 * 0.5)  # the root of a quarter
    assert Window(2.0).place(torch.tensor([[2.0, 1.0]])).tolist() == [[SIZE, SIZE // 4]]


def test_a_still_is_the_shade_as_transparency() -> None:
    levels = np.arange(25, dtype=np.uint8).reshape(5, 5)
    assert np.array_equal(np.asarray(opened_png(shade_png(levels)))[..., 3], levels)


def test_the_expected_variation_is_that_of_draws() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(40, 0.3))
    count, tries = 50, 4000
    found = [
        total_variation(rng.multinomial(count, probabilities) / count, probabilities) for _ in range(tries)
    ]
    error = np.std(found) / math.sqrt(tries)
    assert sampling_variation(probabilities, count) == pytest.approx(np.mean(found), abs=4 * error)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        pytest.skip("no chromium")
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        yield started
        started.close()


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
