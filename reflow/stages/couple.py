"""couple: solve the ODE from fresh noise, or back from real data, and keep the pairs (noise, image)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reflow.artifacts import Header
from reflow.config import CoupleSettings, Recipe
from reflow.devices import choose_device, in_precision
from reflow.distributed import Part, part_of, world
from reflow.errors import Interrupted, UsageError
from reflow.flow import Pair
from reflow.generation import Charged, Source, arrivals, charged, source_of
from reflow.lineage import recipe_of, require_velocity_field
from reflow.models import Model, load_model
from reflow.reporting.progress import Meter, already_complete, say, tell
from reflow.shardset import ShardSet, spent
from reflow.shelf import Shelf
from reflow.solvers.engine import Arrival, Draw
from reflow.solvers.pilot import samples_for
from reflow.survey import Survey, agreed, survey
from reflow.training import watching_signals
from reflow.workspace import claim

STREAM, PILOT = "couple", "pilot"


def run(
    model_path: Path,
    overrides: list[str],
    *,
    out: Path,
    part: str | None,
    device: str,
    compiled: bool,
    fresh: bool,
) -> None:
    """Make the pairs of the model at `model_path` in `out`, or the shards of one part of them."""
    mine = part_of(part)
    if mine is not None and fresh:
        raise UsageError("--fresh would discard the work of other parts; run it without them first")
    where = choose_device(device, world().local_rank)
    model = load_model(model_path).to(where)
    require_velocity_field(model, model_path)
    recipe = recipe_of(model, overrides)
    header = Header(
        kind="pairs",
        stage="couple",
        rectification=model.header.rectification,
        recipe=recipe.model_dump(mode="json"),
        parents={"model": model.digest},
        facts={"event": list(model.event), "classes": model.classes},
    )
    with claim(out, "pairs", inputs=(model_path,), fresh=fresh, part=None if mine is None else str(mine)):
        if already_complete(out, header):
            return
        shards = ShardSet(out, header, recipe.couple.count, recipe.couple.shard)
        job = _Job(model, header, recipe, out, where, compiled, shards)
        job.make(mine or Part(1, 1))
        job.close(mine)


@dataclass(frozen=True)
class _Job:
    """What all shards of one set of pairs have in common."""

    model: Model
    header: Header
    recipe: Recipe
    out: Path
    device: torch.device
    compiled: bool
    shards: ShardSet

    @property
    def settings(self) -> CoupleSettings:
        """The [couple] section."""
        return self.recipe.couple

    def source(self, stream: str) -> Source:
        """Return the noise and labels of the pairs, or of the pilot."""
        return source_of(
            self.model,
            seed=self.recipe.seed,
            stream=stream,
            device=self.device,
            labels=self.settings.labels,
        )

    def make(self, part: Part) -> None:
        """Solve and write the shards of this part that are missing."""
        self.shards.refuse_strangers()
        velocity = self.velocity()
        found = agreed(self.out, self.header, lambda: self.find_plan(velocity))
        say(tell(found.plan, found.accuracy, self.settings.tolerance))
        mine = [shard for shard in range(len(self.shards)) if part.owns(shard)]
        done = [shard for shard in mine if self.shards.check(shard)]
        missing = [shard for shard in mine if shard not in done]
        if missing:
            self.solve(velocity, found, missing, done)

    def velocity(self) -> Charged:
        """Return the velocity to follow, in the precision asked for."""
        velocity = charged(self.model, self.settings, compiled=self.compiled)
        field = in_precision(velocity.field, self.settings.precision, self.device)
        return velocity._replace(field=field)

    def find_plan(self, velocity: Charged) -> Survey:
        """Return the plan that a pilot found."""
        source = self.source(PILOT)
        numbers = range(samples_for(self.settings.count))
        label = source.label(numbers)
        with Meter("pilot", 1, "pilot") as meter:
            found = survey(
                velocity.field,
                source.noise(numbers).to(self.device),
                None if label is None else label.to(self.device),
                self.settings,
                cost=velocity.cost,
            )
            meter.update(1)
        return found

    def solve(self, velocity: Charged, found: Survey, missing: list[int], done: list[int]) -> None:
        """Solve the pairs of the missing shards and write each shard once it is full."""
        settings, source = self.settings, self.source(STREAM)
        dtype = getattr(torch, settings.image_dtype)

        def write(shard: int, pair: Pair, nfe: Tensor) -> None:
            self.shards.write(shard, pair, spent(nfe))

        shelf = Shelf(self.shards, dtype, write)
        numbers = [number for shard in missing for number in self.shards.numbers(shard)]
        before = sum(len(self.shards.numbers(shard)) for shard in done)
        watched = _Watched(**vars(source), shelf=shelf)
        arrived, evaluations = 0, 0
        with (
            watching_signals() as stop,
            shelf,
            Meter("couple", before + len(numbers), "pairs", done=before) as meter,
        ):
            stream = arrivals(
                velocity, watched, numbers, found.plan, batch=settings.batch, constant=self.compiled
            )
            for arrival in stream:
                here = Arrival(*(part.cpu() for part in arrival))
                shelf.finish(*here)
                arrived += len(here.number)
                evaluations += int(here.nfe.sum())
                meter.update(before + arrived, f"{evaluations / arrived:.1f} NFE")
                if stop.signal is not None:
                    raise Interrupted(stop.signal, f"after {arrived} pairs; the complete shards are kept")

    def close(self, part: Part | None) -> None:
        """Write the index if all shards are there: whoever finishes last does it."""
        missing = self.shards.missing()
        if missing:
            say(
                f"{self.out}: part {part} is complete; {missing} of {len(self.shards)} shards are still to "
                "come from other parts, and the last one writes the index"
            )
            return
        found = agreed(self.out, self.header, lambda: self.find_plan(self.velocity()))
        facts = self.shards.close(found.facts())
        say(
            f"{self.out}: {facts['count']} pairs, {facts['nfe_mean']:.1f} evaluations each on average, "
            f"{facts['nfe_max']} at most"
        )


@dataclass(frozen=True)
class _Watched(Source):
    """A source that tells a shelf which pairs are about to be solved."""

    shelf: Shelf

    def draws(self, numbers: Sequence[int]) -> Iterator[Draw]:
        """Yield the samples of these numbers in order, on the device."""
        for draw in super().draws(numbers):
            label = None if draw.label is None else draw.label.cpu()
            self.shelf.start(draw.number.cpu(), draw.x0.cpu(), label)
            yield draw
