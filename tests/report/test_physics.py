"""The physics section shows what closed forms say, whole, still and moving."""

import base64
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from commands import Exact
from physics import DATA, MEAN, STD, model, opened_png, payload, section

from reflow.errors import ReflowError
from reflow.models import Model
from reflow.report.numbers import tell
from reflow.report.plane.continuity import sampling_variation, total_variation
from reflow.report.plane.section import physics_section
from reflow.report.plane.svg import SIZE, Window, shade_png, shades


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
