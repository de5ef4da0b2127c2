"""invert: take real images back to noise along the model's ODE, as pairs to mix into reflow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reflow.artifacts import Header
from reflow.artifacts.facts import PairFacts
from reflow.artifacts.stage_directory import claim
from reflow.data import DataSet
from reflow.devices import choose_device
from reflow.distributed import world
from reflow.errors import UsageError
from reflow.flow import Pair
from reflow.inputs import (
    already_complete,
    open_data_watched,
    real_data,
    recipe_of,
    require_velocity_field,
    split_of,
)
from reflow.models import Model, load_model
from reflow.pairs.writer import ShardSet, spent
from reflow.pixels import dequantised
from reflow.precision import in_precision
from reflow.recipes.read import Overrides, with_source
from reflow.recipes.recipe import CoupleSettings, Recipe
from reflow.sampling.generate import CountedField, counted_field
from reflow.sampling.plan_file import MeasuredPlan, agreed_plan, measure_plan, pilot_line
from reflow.signals import interruptible, watching_signals
from reflow.solvers.pilot import samples_for
from reflow.solvers.solution import Solution, follow
from reflow.terminal import Meter, say
from reflow.training.job import Job

STREAM = "dequantise"


def run(model_path: Path, overrides: Overrides, *, source: str | None, job: Job) -> None:
    """Make pairs of the training images of the model at `model_path` and their noise."""
    if world().size > 1:
        raise UsageError("--invert takes all training images in one process; leave out torchrun")
    where = choose_device(job.device)
    model = load_model(model_path).to(where)
    require_velocity_field(model, model_path)
    recipe = recipe_of(model, overrides)
    if recipe.couple.labels is not None:
        raise UsageError(
            "--invert takes the training images with the labels they have; unset couple.labels"
        )
    sources = recipe if source is None else with_source(recipe, source)
    training, _ = real_data(sources, model, open_data_watched)
    header = Header(
        kind="pairs",
        stage="couple",
        rectification=model.header.rectification,
        recipe=recipe.model_dump(mode="json"),
        parents={"model": model.digest, "data": split_of(model).data},
        facts=PairFacts(model.event, model.classes, inverted=True).to_json(),
    )
    with claim(job.out, "pairs", inputs=(model_path,), fresh=job.fresh):
        if not already_complete(job.out, header):
            shards = ShardSet(job.out, header, len(training), recipe.couple.shard)
            _Inversion(model, training, recipe, where, shards).make()


@dataclass(frozen=True)
class _Inversion:
    """What all shards of inverted data have in common."""

    model: Model
    data: DataSet
    recipe: Recipe
    device: torch.device
    shards: ShardSet

    @property
    def settings(self) -> CoupleSettings:
        """The [couple] section."""
        return self.recipe.couple

    def make(self) -> None:
        """Invert the shards that are missing and write the index."""
        self.shards.refuse_strangers()
        velocity = counted_field(self.model, self.settings)
        field = in_precision(velocity.field, self.settings.precision, self.device)
        velocity = velocity._replace(field=field)
        found = agreed_plan(self.shards.out, self.shards.header, lambda: self.find_plan(velocity))
        say(pilot_line(found.plan, found.accuracy, self.settings.tolerance))
        done = 0
        with watching_signals() as stop, Meter("invert", len(self.data), "images") as meter:
            where = f"{self.shards.out}: the complete shards are kept"
            velocity = velocity._replace(field=interruptible(field, stop, lambda: where))
            for shard in range(len(self.shards)):
                if not self.shards.check(shard):
                    self.invert(shard, velocity, found)
                done += len(self.shards.numbers(shard))
                meter.update(done)
        facts = self.shards.close(found.facts())
        outside = len(self.data) - (facts.count or 0)
        say(
            f"{self.shards.out}: {facts.count} pairs of {len(self.data)} images, {outside} outside "
            f"couple.noise_gate or couple.round_trip_gate; {facts.nfe_mean:.1f} evaluations each on "
            "average, both ways"
        )

    def find_plan(self, velocity: CountedField) -> MeasuredPlan:
        """Return the plan that a pilot found on the way from the data to the noise."""
        x1, label = self.images(range(min(len(self.data), samples_for(len(self.data)))))
        say(f"pilot: solving {len(x1)} images to see where steps are needed")
        return measure_plan(
            velocity.field,
            x1,
            label,
            self.settings,
            cost=velocity.cost,
            t0=1.0,
            t1=0.0,
            batch=self.settings.batch,
            reference=counted_field(self.model, self.settings).field,
        )

    def images(self, rows: range) -> tuple[Tensor, Tensor | None]:
        """Return dequantised images of these rows, each grey level spread evenly, and their labels."""
        x1, label = self.data.take(torch.arange(rows.start, rows.stop).numpy())
        if len(self.model.event) == 3:
            x1 = dequantised(x1, self.recipe.seed, STREAM, rows)
        wanted = None if self.model.classes is None or label is None else label.to(self.device)
        return x1.to(self.device), wanted

    def invert(self, shard: int, velocity: CountedField, found: MeasuredPlan) -> None:
        """Take the images of a shard to noise and back, drop those outside the gates, write the rest."""
        x1, label = self.images(self.shards.numbers(shard))

        def solve(x: Tensor, t0: float, t1: float) -> Solution:
            plan = found.plan if t0 > t1 else found.plan.reversed()
            batch = self.settings.batch
            return follow(plan, velocity.field, x, t0=t0, t1=t1, label=label, batch=batch)

        back = solve(x1, 1.0, 0.0)
        again = solve(back.x1, 0.0, 1.0)
        size = back.x1.flatten(1).square().mean(1).cpu()
        trip = (again.x1 - x1).flatten(1).square().mean(1).sqrt().cpu()
        low, high = self.settings.noise_gate
        keep = (size >= low) & (size <= high) & (trip <= self.settings.round_trip_gate)
        dtype = getattr(torch, self.settings.image_dtype)
        pair = Pair(
            back.x1.cpu()[keep], x1.cpu()[keep].to(dtype), None if label is None else label.cpu()[keep]
        )
        facts = spent((back.nfe + again.nfe).cpu()[keep] * velocity.cost)
        self.shards.write(shard, pair, facts | _quality(size, trip, keep))


def _quality(size: Tensor, trip: Tensor, keep: Tensor) -> dict[str, Any]:
    """Return |noise|^2 per dimension and round-trip errors of the images of a shard."""

    def digits(value: Tensor) -> float:
        return round(float(value), 6)

    return {
        "dropped": int((~keep).sum()),
        "noise_square": [digits(size.min()), digits(size.mean()), digits(size.max())],
        "round_trip_rms": digits(trip.square().mean().sqrt()),
        "round_trip_worst": digits(trip.max()),
    }
