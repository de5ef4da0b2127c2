"""The physics section shows what closed forms say, whole, still and moving."""

import base64
import io
import json
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Exact
from PIL import Image

from reflow.artifacts import Header
from reflow.errors import ReflowError
from reflow.metrics.continuity import sampling_variation, total_variation
from reflow.models import Model, build
from reflow.reporting.physics import physics_section
from reflow.reporting.planar import SIZE, Window, shade_png, shades
from reflow.settings import MlpSettings

MEAN, STD = torch.arange(2.0).sin() / 2, 0.6  # of the data of the fixture `exact`


def model(steps: int | None = None, classes: int | None = None, event: tuple[int, ...] = (2,)) -> Model:
    facts = {"event": list(event), "classes": classes, "student_steps": steps}
    header = Header("model", "distill" if steps else "train", 1, {"seed": 0}, {}, facts)
    net = build(MlpSettings(kind="mlp", width=8, blocks=1), (2,), classes)
    return Model(net, header, "0" * 64).eval().requires_grad_(False)


DATA = MEAN + STD * torch.randn(4000, 2, generator=torch.Generator().manual_seed(5))


@cache
def section() -> str:
    """Return the section of a base model and a student of the fixture `exact`, which must be in use."""
    return physics_section({"base": model(), "distill": model(steps=1)}, DATA, 0)


def payload(page: str) -> dict[str, object]:
    text = re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert text
    return json.loads(text[1])  # type: ignore[no-any-return]


def told(pattern: str, page: str) -> list[float]:
    found = re.search(pattern, page, re.DOTALL)
    assert found, pattern
    return [float(number.replace("\u2212", "-")) for number in found.groups()]


@pytest.mark.usefixtures("exact")
def test_the_section_tells_the_closed_forms_of_a_gaussian_flow() -> None:
    page = section()
    found = payload(page)
    assert abs(np.array(found["masses"]) - 1).max() < 1e-3
    # Halves of sums of 729 independent differences scatter by a twentieth of their mean.
    ratio = np.array(found["differences"]) / np.array(found["expected"])
    assert ((ratio > 0.8) & (ratio < 1.2)).all()
    # Of 200 trajectories; |x0|^2 per dimension has the relative standard deviation 1 / sqrt(200).
    assert told(r"</b> S = ([\d.]+)", page)[0] == pytest.approx(STD * (2 - math.pi / 2), rel=0.25)
    # 4,000 points of the data, some hundreds of them near enough to the point to count.
    mean = told(r"over all data, \((\S+), (\S+)\)", page)
    assert mean == pytest.approx(told(r"base has learnt \((\S+), (\S+)\)", page), abs=0.1)
    # One step of the base leads to the mean of the data.
    ends = re.findall(r'physics-small" d="M(\d+) (\d+)h0', page)
    reach = 1.2 * float(DATA.abs().max())
    assert np.array(ends[0], float) == pytest.approx(Window(reach).place(MEAN), abs=1)


@pytest.mark.usefixtures("exact")
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
    states = np.array(payload(page)["flows"][0]["states"])  # type: ignore[index]
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
    raw = base64.b64decode(shade_png(levels).removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(raw)))[..., 3], levels)


def test_the_expected_variation_is_that_of_draws() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(40, 0.3))
    count, tries = 50, 4000
    found = [
        total_variation(rng.multinomial(count, probabilities) / count, probabilities) for _ in range(tries)
    ]
    error = np.std(found) / math.sqrt(tries)
    assert sampling_variation(probabilities, count) == pytest.approx(np.mean(found), abs=4 * error)


@pytest.mark.usefixtures("exact")
def test_a_browser_moves_all_pictures_through_t(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        pytest.skip("no chromium")
    page_file = tmp_path / "page.html"
    page_file.write_text("<!doctype html><title>t</title>" + section())
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 360, "height": 800}, reduced_motion="reduce")
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(page_file.as_uri())
        pictures = "[...document.querySelectorAll('canvas')].map(c => c.toDataURL()).concat("
        pictures += "[...document.querySelectorAll('[data-part]')].map(p => p.getAttribute('d')))"
        before = page.evaluate(pictures)
        page.locator("input").focus()
        page.keyboard.press("End")
        after = page.evaluate(pictures)
        assert all(one != other for one, other in zip(before, after, strict=True))
        assert page.locator("input").get_attribute("aria-valuetext") == "t = 1.00"
        assert page.locator("output").inner_text().startswith("t = 1.00: total mass 1.000")
        page.locator("button").click()  # plays from the beginning, in quarters
        page.wait_for_function("document.querySelector('output').textContent.startsWith('t = 0.25')")
        page.locator("button").click()
        assert page.locator("output").inner_text().startswith("t = 0.25")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert not said
        browser.close()
