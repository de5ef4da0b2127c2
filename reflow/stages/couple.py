"""couple: solve the ODE from fresh noise and keep the pairs (noise, image)."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from reflow.artifacts import PAIRS, Header
from reflow.artifacts.facts import PairFacts
from reflow.artifacts.stage_directory import claim
from reflow.devices import choose_device
from reflow.distributed import Part, part_of, world
from reflow.errors import UsageError
from reflow.flow import Pair
from reflow.inputs import (
    already_complete,
    open_pairs_watched,
    recipe_of,
    require_velocity_field,
    say_unread,
)
from reflow.models import Model, load_model
from reflow.pairs.collapse import (
    ROLE,
    Coverage,
    First,
    coverage_of,
    first_pairs,
    recorded,
    require_coverage,
)
from reflow.pairs.store import read_index
from reflow.pairs.writer import ShardSet, ShardWriter, spent
from reflow.precision import in_precision
from reflow.recipes.read import Overrides
from reflow.recipes.recipe import CoupleSettings, Recipe
from reflow.sampling.generate import CountedField, Source, arrivals, counted_field, labels_called, source_of
from reflow.sampling.plan_file import MeasuredPlan, agreed_plan, measure_plan, pilot_line
from reflow.signals import interruptible, watching_signals
from reflow.solvers.pilot import samples_for
from reflow.terminal import Meter, say
from reflow.training.job import Job

STREAM, PILOT = "couple", "pilot"
KEPT = "the complete shards are kept"


def run(
    model_path: Path,
    overrides: Overrides,
    *,
    labels: str | None,
    against: Path | None,
    part: str | None,
    job: Job,
) -> None:
    """Make the pairs of the model at `model_path`, or the shards of one part of them.

    labels: names or numbers of classes with commas between. With `against`, the pairs of the first round,
    images that cover too little of theirs are refused; their shards stay.
    """
    mine = part_of(part)
    if mine is not None and job.fresh:
        raise UsageError(f"--fresh would discard the work of other parts; remove {job.out} instead")
    where = choose_device(job.device, world().local_rank)
    model = load_model(model_path).to(where)
    require_velocity_field(model, model_path)
    if labels is not None:
        chosen = labels_called(model, [name.strip() for name in labels.split(",")], "--labels")
        overrides = {**overrides, "couple.labels": chosen}
    recipe = recipe_of(model, overrides)
    say_unread(overrides, "couple")
    header = _header(model, recipe)
    first = None if against is None else first_pairs(against, header)
    inputs = (model_path,) if against is None else (model_path, against)
    with claim(job.out, "pairs", inputs=inputs, fresh=job.fresh, part=None if mine is None else str(mine)):
        shards = ShardSet(job.out, header, recipe.couple.count, recipe.couple.shard)
        pairs = _Pairs(model, header, recipe, job.out, where, bool(job.compiled), shards, first)
        if not pairs.complete():
            pairs.make(mine or Part(1, 1))
            pairs.close(mine)


def _header(model: Model, recipe: Recipe) -> Header:
    """Return the header of the shards that this model makes."""
    return Header(
        kind="pairs",
        stage="couple",
        rectification=model.header.rectification,
        recipe=recipe.model_dump(mode="json"),
        parents={"model": model.digest},
        facts=PairFacts(model.event, model.classes).to_json(),
    )


@dataclass(frozen=True)
class _Pairs:
    """What all shards of one set of pairs have in common."""

    model: Model
    header: Header
    recipe: Recipe
    out: Path
    device: torch.device
    compiled: bool
    shards: ShardSet
    first: First | None

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

    def complete(self) -> bool:
        """Return whether all pairs are there with their index; refuse collapsed ones even so.

        Whether and with what they were compared when they were made may differ.
        """
        if not (self.out / PAIRS).exists():
            return False
        found, _ = read_index(self.out / PAIRS)
        before = {role: digest for role, digest in found.parents.items() if role == ROLE}
        complete = already_complete(self.out, replace(self.header, parents=self.header.parents | before))
        if self.first is not None:
            known = found.parents.get(ROLE) == self.first.digest
            self.judge(recorded(found.facts) if known else self.compared(self.first))
        return complete

    def make(self, part: Part) -> None:
        """Solve and write the shards of this part that are missing."""
        self.shards.refuse_strangers()
        if part.number > len(self.shards):
            say(
                f"{self.out}: nothing to do for part {part}: the pairs are {len(self.shards)} shards "
                f"of {self.settings.shard} (couple.shard)"
            )
            return
        found = self.survey()
        say(pilot_line(found.plan, found.accuracy, self.settings.tolerance))
        mine = [shard for shard in range(len(self.shards)) if part.owns(shard)]
        there = {shard: self.shards.check(shard) for shard in mine}
        done, missing = ([shard for shard in mine if there[shard] is wanted] for wanted in (True, False))
        if missing:
            self.solve(found, missing, done)

    def velocity(self, *, compiled: bool) -> CountedField:
        """Return the velocity to follow, in the precision asked for."""
        velocity = counted_field(self.model, self.settings, compiled=compiled)
        field = in_precision(velocity.field, self.settings.precision, self.device)
        return velocity._replace(field=field)

    def survey(self) -> MeasuredPlan:
        """Return the plan of this set, found by a pilot or kept from before."""
        return agreed_plan(self.out, self.header, self.find_plan)

    def find_plan(self) -> MeasuredPlan:
        """Return the plan that a pilot finds; its batch is too small to compile for."""
        x0, label = self.source(PILOT).pilot(samples_for(self.settings.count))
        velocity = self.velocity(compiled=False)
        say(f"pilot: solving {len(x0)} samples to see where steps are needed")
        return measure_plan(
            velocity.field,
            x0,
            label,
            self.settings,
            cost=velocity.cost,
            batch=self.settings.batch,
            reference=counted_field(self.model, self.settings).field,
        )

    def solve(self, found: MeasuredPlan, missing: list[int], done: list[int]) -> None:
        """Solve the pairs of the missing shards and write each shard once it is full."""
        source, batch = self.source(STREAM), self.settings.batch

        def write(shard: int, pair: Pair, nfe: Tensor) -> None:
            self.shards.write(shard, pair, spent(nfe))

        before, total = self.shards.pairs_in(done), self.shards.pairs_in(done + missing)
        writer = ShardWriter(self.shards, getattr(torch, self.settings.image_dtype), write)
        draws = (draw for shard in missing for draw in source.draws(self.shards.numbers(shard)))
        arrived, evaluations = before, 0
        with (
            watching_signals() as stop,
            writer,
            Meter("couple", total, "pairs", done=before) as meter,
        ):
            velocity = self.velocity(compiled=self.compiled)
            field = interruptible(velocity.field, stop, lambda: f"after {arrived} pairs; {KEPT}")
            for arrival in arrivals(
                velocity._replace(field=field),
                writer.watched(draws),
                found.plan,
                self.device,
                batch=batch,
                constant=self.compiled,
            ):
                writer.finish(*arrival)
                arrived += len(arrival.number)
                evaluations += int(arrival.nfe.sum())
                meter.update(arrived, f"{evaluations / (arrived - before):.1f} NFE")

    def close(self, part: Part | None) -> None:
        """Write the index if all shards are there: whoever finishes last does it."""
        missing = self.shards.missing()
        if missing:
            say(
                f"{self.out}: part {part} is complete; other parts have {missing} of {len(self.shards)} "
                "shards still to make, and the last one writes the index"
            )
            return
        described, parents = self.survey().facts(), {}
        if self.first is not None:
            found = self.compared(self.first)
            self.judge(found)
            described, parents = described | {"against": found.facts()}, {ROLE: self.first.digest}
        facts = self.shards.close(described, parents)
        say(
            f"{self.out}: {facts.count} pairs, {facts.nfe_mean:.1f} evaluations each on average, "
            f"{facts.nfe_max} at most"
        )

    def compared(self, first: First) -> Coverage:
        """Return how the images cover those of the first round."""
        return coverage_of(open_pairs_watched(first.path), self.shards, self.recipe.seed)

    def judge(self, found: Coverage) -> None:
        """Say what a comparison found, and refuse images that have collapsed."""
        say(f"{self.out}: {found.told()}")
        require_coverage(found, self.settings, self.out, self.header.rectification)
