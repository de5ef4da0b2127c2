"""Samples of every model at several numbers of evaluations, all from the same noise, as pictures.

A page stays below 6 MB, base64 included: `fitting` says how many samples of which size the pictures of
images can have. Images are (N, C, H, W) in [-1, 1], points (N, D).
"""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reflow.models import Model
from reflow.pictures import cloud, gap_of, png, sheet
from reflow.recipes.recipe import SolverSettings
from reflow.report.numbers import tell_error
from reflow.report.run import Entry, Run
from reflow.report.tables import STAGES, distances_of, error_of, fixed, words_of
from reflow.sampling.generate import generate
from reflow.sampling.methods import fixed_method, usual_method
from reflow.solvers.fixed_grid import METHODS

STREAM = "report"
IMAGES, POINTS = (36, 25, 16, 9, 4), 1500  # samples in a picture
BYTES = 2_400_000  # of raw pixels, in all grids of a page
SETTINGS = 7  # numbers of evaluations shown of a model, at most
SIDE, POINTS_SIDE = 350, 320  # pixels at which a grid is shown: what a card has room for
RED, BLUE = (209, 73, 91), (62, 130, 175)  # of generated and of real points


@dataclass(frozen=True)
class Sprite:
    """A picture of samples as a data URI; `note` says how good they are."""

    nfe: int
    source: str
    note: str

    @property
    def words(self) -> str:
        """The number of evaluations in words."""
        return f"{self.nfe} evaluation{'' if self.nfe == 1 else 's'}"


@dataclass(frozen=True)
class ModelPictures:
    """The pictures of one model, from the fewest evaluations to the most."""

    name: str
    stage: str
    sprites: Sequence[Sprite]


@dataclass(frozen=True)
class Pen:
    """How samples are drawn: how many, into which picture, shown how wide (in pixels).

    picture: what a picture of them is called. crisp: whether its pixels are to be seen.
    """

    what: str
    picture: str
    count: int
    draw: Callable[[Tensor, tuple[int, int, int]], bytes]
    width: int
    crisp: bool


@dataclass(frozen=True)
class Gallery:
    """All grids of a run; `real` is a picture of held-out data as a data URI, or None."""

    shelves: Sequence[ModelPictures]
    real: str | None
    pen: Pen

    @property
    def last(self) -> int:
        """Index of the first student or, without one, of the last model."""
        students = [n for n, model in enumerate(self.shelves) if model.stage == STAGES["distill"]]
        return students[0] if students else len(self.shelves) - 1


@dataclass(frozen=True)
class SheetSize:
    """How many samples a picture has, and by which factor they are shrunk."""

    count: int
    reduction: int


def gallery_of(
    run: Run, models: Mapping[str, Model], real: Tensor | None, *, runs: int, device: torch.device
) -> Gallery:
    """Return samples of all models of a run, which shares the page with others, and real data."""
    shown = [(entry, _methods(run, entry, models[entry.name])) for entry in run.models()]
    pictures = runs * (1 + sum(len(methods) for _, methods in shown))
    event = next(iter(models.values())).event
    pen = _images(event, pictures) if len(event) == 3 else _points(event, real)
    shelves = []
    for entry, methods in shown:
        sprites = [
            Sprite(nfe, _drawn(models[entry.name], method, pen, device), _note(run, entry, method, nfe))
            for nfe, method in methods.items()
        ]
        shelves.append(ModelPictures(entry.name, STAGES[entry.header.stage], sprites))
    return Gallery(shelves, None if real is None else source_of(pen.draw(real[: pen.count], BLUE)), pen)


def fitting(event: Sequence[int], pictures: int, counts: Sequence[int], budget: int) -> SheetSize:
    """Return how so many pictures of images (C, H, W) stay within `budget` bytes of raw pixels."""
    channels, height, width = event
    for reduction in range(1, min(height, width) + 1):
        tile = (channels + 1) * (height // reduction) * (width // reduction)  # and how opaque it is
        for count in counts:
            if count * tile * pictures <= budget:
                return SheetSize(count, reduction)
    return SheetSize(counts[-1], min(height, width))


def source_of(picture: bytes) -> str:
    """Return a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def _methods(run: Run, entry: Entry, model: Model) -> dict[int, SolverSettings]:
    """Return how a model is drawn: as it was evaluated on fixed grids, or else as its recipe says."""
    own = model.student_steps
    if own is not None and not model.spans:
        return {own: usual_method(model)}
    wanted = model.recipe.evaluate
    ways = [(found["solver"], found["nfe"]) for found in fixed(run.evaluated().get(entry.name))]
    ways = [(solver, round(nfe)) for solver, nfe in ways if solver in METHODS]
    if model.spans or not ways:
        solver = "euler" if model.spans else wanted.solver
        counts = {nfe for _, nfe in ways} or {*wanted.nfe, *(() if own is None else (own,))}
    else:
        solver = ways[0][0]
        counts = {nfe for other, nfe in ways if other == solver}
    return {nfe: fixed_method(model, nfe, solver) for nfe in _spread(sorted(counts))}


def _spread(counts: list[int]) -> list[int]:
    """Return at most SETTINGS of them, the first and the last among these."""
    if len(counts) <= SETTINGS:
        return counts
    return [counts[number * (len(counts) - 1) // (SETTINGS - 1)] for number in range(SETTINGS)]


def _drawn(model: Model, method: SolverSettings, pen: Pen, device: torch.device) -> str:
    batches = generate(
        model,
        pen.count,
        method=method,
        seed=model.recipe.seed,
        stream=STREAM,
        batch=pen.count,
        device=device,
    )
    samples = torch.cat([batch.pair.x1 for batch in batches])
    return source_of(pen.draw(samples, RED))


def _note(run: Run, entry: Entry, method: SolverSettings, nfe: int) -> str:
    """Return how good these samples are, as far as they were evaluated."""
    names = distances_of(run.evaluation)
    for found in fixed(run.evaluated().get(entry.name)):
        if names and (found["solver"], round(found["nfe"])) == (method.solver, nfe):
            recall = f", recall {found['recall']:.2f}" if found.get("recall") is not None else ""
            distance = tell_error(found[names[0]], error_of(found, names[0]))
            return f"{words_of(names[0])} {distance}{recall}"
    return ""


def _images(event: Sequence[int], pictures: int) -> Pen:
    fit = fitting(event, pictures, IMAGES, BYTES)
    columns, side = math.isqrt(fit.count), event[2] // fit.reduction
    width = columns * (side + gap_of(side)) - gap_of(side)

    def draw(samples: Tensor, _: tuple[int, int, int]) -> bytes:
        return png(sheet(samples, columns, fit.reduction))

    zoom = SIDE // width  # pixels of one size; where they would be too small, the browser smooths them
    return Pen("samples", "grid", fit.count, draw, zoom * width if zoom > 1 else SIDE, crisp=zoom > 1)


def _points(event: Sequence[int], real: Tensor | None) -> Pen:
    """Return a pen for points, which shows where the real ones are, and a margin."""
    reach = 1.6 if real is None else 1.15 * float(real[:, :2].abs().max())

    def draw(samples: Tensor, colour: tuple[int, int, int]) -> bytes:
        return png(cloud(samples, (-reach, reach), colour))

    what = "points" if event[0] <= 2 else f"points (two coordinates of {event[0]})"
    return Pen(what, "picture", POINTS, draw, POINTS_SIDE, crisp=False)
