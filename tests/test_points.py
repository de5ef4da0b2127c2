"""Pictures of points show them where they are, on equal scales, whatever they are."""

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from reflow.pictures.points import DOTS, LEFT, RIGHT, SIDE, limits, scatter, ticks


def drawn(points: torch.Tensor, left: int = LEFT) -> NDArray[np.float64]:
    """Return how red the square of a picture is: 0 for paper, 1 for the colour of dots."""
    picture = np.asarray(Image.open(io.BytesIO(scatter(points))), np.float64)
    green = picture[RIGHT : RIGHT + SIDE, left : left + SIDE, 1]
    red = picture[RIGHT : RIGHT + SIDE, left : left + SIDE, 0]
    return np.clip((red - green) / (DOTS[0] - DOTS[1]), 0, 1)


def test_a_point_is_a_small_dot_where_it_is() -> None:
    cover = drawn(torch.tensor([[0.8, -0.4]]))
    down, right = (np.average(np.arange(SIDE) + 0.5, weights=cover.sum(axis)) for axis in (1, 0))
    # A quarter of a pixel is what places are rounded to.
    assert right == pytest.approx((0.8 + 1.6) / 3.2 * SIDE, abs=0.25)
    assert down == pytest.approx((1.6 + 0.4) / 3.2 * SIDE, abs=0.25)
    assert np.count_nonzero(cover) < 40
    assert cover.max() == pytest.approx(0.7, abs=0.02)  # levels of 8 bits


def test_dots_add_up_where_they_are_dense() -> None:
    one, many = drawn(torch.zeros(1, 2)), drawn(torch.zeros(50, 2))
    assert many.max() > 0.98 > one.max()


def test_points_far_away_have_a_plane_of_their_own() -> None:
    points = 100 + 20 * torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    (left, right), (low, high) = limits(points.double().numpy())
    assert right - left == pytest.approx(high - low)
    inside = (points[:, 0] > left) & (points[:, 0] < right) & (points[:, 1] > low) & (points[:, 1] < high)
    assert inside.double().mean() > 0.98
    assert np.count_nonzero(drawn(points)) > 2000


def test_a_histogram_is_as_high_as_there_are_values() -> None:
    cover = drawn(torch.cat([torch.full((300, 1), -0.81), torch.full((100, 1), 0.81)]))
    heights = np.count_nonzero(cover > 0.5, axis=0)
    assert set(heights) == {0, round(SIDE / 1.04), round(SIDE / 1.04 / 3)}
    assert heights[: SIDE // 2].max() == round(SIDE / 1.04)


def test_of_more_than_two_coordinates_the_first_two_are_shown_and_named() -> None:
    points = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    wide, narrow = (Image.open(io.BytesIO(scatter(p))) for p in (points, points[:, :2]))
    assert wide.width > narrow.width
    assert np.array_equal(drawn(points, LEFT + wide.width - narrow.width), drawn(points[:, :2]))


def test_what_cannot_be_shown_is_left_out() -> None:
    points = torch.tensor([[0.1, 0.2], [float("nan"), 0.0], [float("inf"), 1.0]])
    assert scatter(points) == scatter(points[:1])
    assert not drawn(points[1:]).any()
    assert not drawn(torch.full((3, 1), float("nan"))).any()
    assert drawn(torch.full((9, 2), 1e30)).any()


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (-1.6, 1.6, [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]),
        (40.0, 160.0, [40.0, 60.0, 80.0, 100.0, 120.0, 140.0, 160.0]),
        (0.0, 1.04, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_are_round(low: float, high: float, wanted: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(wanted)
