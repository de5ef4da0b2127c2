"""Charts, grids of images and clouds of points show everything at its place."""

import base64
import io
import math
import re

import pytest
import torch
from PIL import Image

from reflow.pictures import cloud, png, sheet
from reflow.report.charts import Axis, Series, chart
from reflow.report.gallery import BYTES, IMAGES, fitting


def test_points_of_a_chart_stand_where_their_logarithms_are() -> None:
    drawn = chart(
        "d",
        [Series("a", [(1, 10), (10, 1000), (100, 100)], 0, mark=0)],
        Axis("n", log=True),
        Axis("d", log=True),
    )
    places = re.findall(r"translate\(([\d.]+) ([\d.]+)\)", drawn.svg)
    (x0, y0), (x1, y1), (x2, y2) = ((float(x), float(y)) for x, y in places)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)  # places are rounded to a tenth
    assert y0 - y1 == pytest.approx(2 * (y2 - y1), abs=0.31)
    assert y1 < y2 < y0  # up is more


@pytest.mark.parametrize("value", [0.0, 1e-9, 5.0])
def test_a_chart_of_one_value_is_drawn(value: float) -> None:
    drawn = chart("d", [Series("a", [(1, value)], 0, mark=0)], Axis("n", log=True), Axis("d"))
    assert "nan" not in drawn.svg


@pytest.mark.parametrize("event", [(1, 8, 8), (3, 32, 32), (3, 64, 64), (3, 256, 256)])
def test_grids_of_any_images_stay_within_the_page(event: tuple[int, int, int]) -> None:
    pictures = 16  # base and reflowed model at 7 numbers of evaluations, a student, real data
    fit = fitting(event, pictures, IMAGES, BYTES)
    images = torch.rand(fit.count, *event) * 2 - 1  # noise, which no PNG makes smaller
    picture = png(sheet(images, math.isqrt(fit.count), fit.reduction))
    assert pictures * len(base64.b64encode(picture)) < 4.5e6
    assert fit.reduction == 1 or event[1] > 64
    assert fit.count == 36 or event[1] > 32


def test_a_sheet_shows_every_image_at_its_place() -> None:
    images = torch.linspace(-1, 1, 6).reshape(6, 1, 1, 1).expand(6, 1, 4, 4)
    picture = Image.open(io.BytesIO(png(sheet(images, 3)))).convert("LA")
    assert picture.size == (3 * 4 + 2, 2 * 4 + 1)
    seen = [picture.getpixel((5 * column, 5 * row)) for row in range(2) for column in range(3)]
    assert seen == [(level, 255) for level in (0, 51, 102, 153, 204, 255)]
    assert picture.getpixel((4, 0))[1] == 0  # the gap lets the page through


def test_points_are_drawn_where_they_are() -> None:
    points = torch.tensor([[0.0, 0.0], [0.99, 0.99], [5.0, 0.0]])  # the last one is outside
    alpha = cloud(points, (-1.0, 1.0), (1, 2, 3)).getchannel("A")
    assert alpha.getpixel((160, 159)) == 255
    assert alpha.getpixel((318, 1)) == 255
    assert sum(level > 0 for level in alpha.tobytes()) == 8  # two squares
