"""Driving a fit to its end inside a stage's directory: resume, log, states, previews, signals.

This is where training meets the clock, the terminal and the disk; `fit` knows none of them. Of several
processes the first one reads and writes; all of them take every step.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec

import torch

from reflow.artifacts import MODEL, Header, write_artifact
from reflow.artifacts.facts import model_facts
from reflow.artifacts.stage_directory import claim
from reflow.couplings import Coupling
from reflow.devices import choose_device
from reflow.distributed import Vote, agree, joined, restarts, world
from reflow.errors import Interrupted, ReflowError
from reflow.flow import Objective
from reflow.models import Model
from reflow.models.preconditioning import Preconditioned
from reflow.recipes.recipe import Recipe
from reflow.recipes.training import FitSettings
from reflow.signals import Stop, watching_signals
from reflow.terminal import say
from reflow.training.checkpoints import Checkpoints, UnwrittenStateError, already_trained, saved_states
from reflow.training.fit import Fit
from reflow.training.job import Job
from reflow.training.log import Observers, harmless
from reflow.training.preview import preview
from reflow.training.running_means import Means
from reflow.training.snapshots import announcement, discard_after, write_snapshot
from reflow.training.tracking import require_tracker
from reflow.training.validation import validate

P = ParamSpec("P")


@dataclass(frozen=True)
class Task:
    """What a stage wants fitted, and how the result is described.

    sides: couplings to validate on with their numbers of examples, by the name in the log.
    """

    net: Preconditioned
    coupling: Coupling
    objective: Objective
    settings: FitSettings
    recipe: Recipe
    header: Header
    sides: Mapping[str, tuple[Coupling, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """Where a network is fitted."""

    device: torch.device
    compiled: bool


def machine(job: Job) -> Machine:
    """Return the machine of a job; networks are compiled on NVIDIA GPUs unless told otherwise.

    Raises ReflowError for a device that is not there and a tracker that is unknown or not installed.
    """
    for name in job.trackers:
        require_tracker(name)
    chosen = choose_device(job.device, world().local_rank)
    compiled = chosen.type == "cuda" if job.compiled is None else job.compiled
    return Machine(chosen, compiled)


def train_model(task: Task, machine: Machine, job: Job, *, inputs: Sequence[Path] = ()) -> None:
    """Train a network into the directory of the job, from its state if there is one, and write the model.

    Raises Interrupted after a signal and ReflowError when gradients stay non-finite or the directory
    holds something else; the last state stands in both cases.
    """
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(joined(machine.device))
        if here.leads:
            over = job.fresh and not restarts()  # what is there then is of this very command
            stack.enter_context(claim(job.out, "model", inputs=inputs, fresh=over))
        if agree(here.leads and already_trained(job.out, task.header), here):
            return
        average = copy.deepcopy(task.net).eval().requires_grad_(False)
        if machine.compiled:
            task.net.compile(dynamic=False)
        fit = Fit(
            task.net,
            average,
            task.coupling,
            task.objective,
            task.settings,
            seed=task.recipe.seed,
            stream=f"{task.header.stage} {task.header.rectification}",
            device=machine.device,
            world=here,
        )
        _Session(task, fit, job.out).run(job.trackers)


class _Session:
    """A fit in a stage's directory: how it is saved, shown, followed and published."""

    def __init__(self, task: Task, fit: Fit, out: Path) -> None:
        self.task, self.fit, self.out = task, fit, out
        self.world, self.settings = fit.world, fit.settings
        facts = model_facts(task.header.facts)
        self.model = Model(fit.average, task.header, task.recipe, facts, digest="")
        self.states = Checkpoints(out, task.header)
        self.asked, self.skipped = time.monotonic(), 0
        self.observers: Observers | None = None  # of the first process

    def run(self, trackers: Sequence[str]) -> None:
        """Take the steps that are left, then write the model."""
        self.resume()
        with contextlib.ExitStack() as stack:
            if self.world.leads:
                due = min(self.settings.snapshots, self.settings.steps)
                left = due - min(self.parts(self.fit.step), due)
                if left:
                    say(f"{self.out}: {announcement(self.task.header, left)}")
                told = Observers(self.out, self.task.recipe, self.task.header, self.fit, trackers)
                self.observers = stack.enter_context(told)
            stop = stack.enter_context(watching_signals())
            self.take_steps(stop)
            self.publish(stop)
        if self.observers:
            took = f"{self.settings.steps} steps in {self.observers.seconds():.0f} s"
            say(f"{self.out}: {took}; the model is complete")

    def take_steps(self, stop: Stop) -> None:
        """Take the steps that are left; a signal is Interrupted once the state is saved."""
        fit, settings, vote = self.fit, self.settings, Vote(self.world)
        while fit.step < settings.steps:
            fit.advance()
            if fit.step % settings.log_every == 0 or fit.step == settings.steps:
                self.tell(self.figures(), self.validation())
            if self.snapshot_due():  # before the state, from which a killed run resumes
                self.try_to(self.keep_averages)
            asked, due = vote.cast(stop.signal or 0, self.due())
            if asked:
                self.leave(asked)
            if fit.step < settings.steps:  # the last state and preview come with the model
                if due:
                    self.require_hope()
                    self.try_to(self.save)
                if fit.step % settings.preview_every == 0:
                    self.show()
        vote.counted()

    def leave(self, signal: int) -> None:
        """Save the state and raise Interrupted."""
        self.require_hope()
        self.save()
        agree(None, self.world)  # when one process ends, torchrun ends the others: not while one writes
        raise Interrupted(signal, f"at step {self.fit.step}; the state is saved")

    def resume(self) -> None:
        """Restore the state in the directory, if there is one."""
        trouble = self.states.restore(self.fit)
        if trouble:
            say(trouble)
        self.skipped = int(self.fit.means.skipped[0])
        if self.world.leads and self.fit.step:
            say(f"{self.out}: resuming at step {self.fit.step}")
        if self.world.leads:
            discard_after(self.out, self.fit.step)

    def due(self) -> int:
        """Return whether a state is to be written, by the steps or by the clock, which starts again."""
        by_clock = self.world.leads and time.monotonic() - self.asked > 60 * self.settings.save_minutes
        due = by_clock or self.fit.step % self.settings.save_every == 0
        if due:
            self.asked = time.monotonic()
        return int(due)

    def save(self) -> None:
        """Write the state."""
        self.states.save(self.fit)
        self.asked = time.monotonic()

    def snapshot_due(self) -> bool:
        """Return whether the last step completed one of the equal parts of the training run."""
        step = self.fit.step
        return self.parts(step) > self.parts(step - 1)

    def parts(self, step: int) -> int:
        """Return how many snapshots are due up to a step."""
        return step * self.settings.snapshots // self.settings.steps

    def keep_averages(self) -> None:
        """Write a snapshot of the power-function averages."""
        averages = self.fit.snapshot()
        if self.world.leads:
            write_snapshot(self.out, self.task.header, self.fit.step, averages)

    def try_to(self, write: Callable[P, None], *arguments: P.args, **named: P.kwargs) -> None:
        """Keep something; where that fails, as on a full disk, say so and train on."""
        try:
            write(*arguments, **named)
        except ReflowError as error:
            what, _, _ = str(error).partition(";")  # the remedy is for those whose training has ended
            say(f"{what}. Training continues without it")

    def tell(self, figures: Means, validation: Mapping[str, float]) -> None:
        """Write a line of the log."""
        if self.observers:
            with harmless("the log"):
                self.observers.log(self.fit, figures, validation)

    def show(self) -> None:
        """Write the preview of the averaged model."""
        self.fit.averaged()
        if self.observers:
            with harmless("the preview"):
                picture = preview(self.model, seed=self.task.recipe.seed, device=self.fit.device)
                self.observers.show(self.fit.step, picture)

    def publish(self, stop: Stop) -> None:
        """Write the averaged model: the stage is complete, even where the last state finds no room.

        A signal that comes as late as this changes nothing but that there is no last preview.
        """
        try:
            self.save()
        except UnwrittenStateError as error:
            say(f"{str(error).partition(';')[0]}. The model is written without it")
        if not agree(stop.signal, self.world):
            self.show()
        averaged = self.fit.averaged()
        if self.world.leads:
            write_artifact(self.out / MODEL, averaged.state_dict(), self.task.header)
            self.states.forget_previous()

    def figures(self) -> Means:
        """Return the means since the last line of the log; raise where steps are skipped in a row."""
        figures = self.fit.means.read(self.world)
        self.require_hope(figures.loss)
        if figures.skipped > self.skipped and self.world.leads:
            say(
                f"before step {self.fit.step} the gradient was not finite, and the step was skipped "
                f"({figures.skipped} of {self.fit.step} steps so far)"
            )
        self.skipped = figures.skipped
        return figures

    def require_hope(self, loss: float | None = None) -> None:
        """Raise where steps were skipped in a row: what is in the directory is from before them."""
        means = self.fit.means
        if means.hopeless() or (loss is not None and not math.isfinite(loss)):
            raise ReflowError(
                f"loss or gradient were not finite in {means.patience} steps in a row before step "
                f"{self.fit.step}; {saved_states(self.out)}. Lower the learning rate (lr) or check the "
                "data, then start over with --fresh"
            )

    def validation(self) -> dict[str, float]:
        """Return the validation losses, in the first process, if they are due in this line of the log."""
        step, every, settings = self.fit.step, self.settings.validate_every, self.settings
        if step % every >= settings.log_every and step < settings.steps:
            return {}
        average = self.fit.averaged()
        if not self.world.leads:
            return {}
        with harmless("validation"):
            return validate(
                average,
                self.task.sides,
                self.task.objective,
                batch=self.fit.size,
                seed=self.fit.seed,
                device=self.fit.device,
            )
        return {}
