"""Run variants of the pipeline on several seeds and tabulate what they reach: docs/results.md.

    python studies/study.py --recipe digits --out runs/study --seeds 0,1,2 --jobs 2
    python studies/study.py --out runs/study --only 'times-*' '*-from-base' --budget-minutes 60
    python studies/study.py --out runs/study --table > tables.md

Every command is a process of its own. What is complete is not run again, what was interrupted goes on,
and what several variants begin with is run once; each command leaves its folder, a log and the seconds it
took in OUT/seed-S. --dry-run prints the commands that are still to be run.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import FrameType

from findings import REFERENCE, tables
from variants import Stage, Variant, variants

from reflow.artifacts import MODEL, PAIRS
from reflow.errors import ReflowError
from reflow.recipes.read import parse_overrides, read_recipe
from reflow.recipes.recipe import Recipe

INITIAL = Path(__file__).with_name("initial.py")
NFE = "1,2,4,16,100"
INTERRUPTED = (130, 143)
COMPLETE = {"pairs": PAIRS, "inverted": PAIRS}  # the file written last, where it is not the model


@dataclass(frozen=True)
class Job:
    """One command, what it makes (a stage's folder or an evaluation's file) and what it needs."""

    target: Path
    made: Path
    command: tuple[str, ...]
    needs: tuple[Path, ...] = ()

    @property
    def times(self) -> Path:
        """Where its seconds are noted."""
        return beside(self.target, "times.json")


@dataclass(frozen=True)
class Study:
    """A recipe with changes, and the folder of its runs."""

    recipe: str
    changes: tuple[str, ...]
    out: Path

    @cached_property
    def settings(self) -> Recipe:
        """The recipe with its changes."""
        return read_recipe(self.recipe, parse_overrides(self.changes))

    @property
    def text(self) -> str:
        """The same as JSON, for the names of stages."""
        return self.settings.model_dump_json()

    def variants(self, patterns: Sequence[str]) -> dict[str, Variant]:
        """Return the variants whose names match one of the patterns, all without any."""
        found = variants(self.settings)
        chosen = {n: v for n, v in found.items() if any(fnmatch(n, p) for p in patterns or ["*"])}
        if not chosen:
            raise ReflowError(f"--only {' '.join(patterns)}: none of {', '.join(found)}")
        return chosen

    def folder(self, seed: int, stage: Stage) -> Path:
        """Return where a stage is run."""
        return self.out / f"seed-{seed}" / stage.name(self.text)

    def plan(self, seeds: Iterable[int], patterns: Sequence[str]) -> list[Job]:
        """Return all jobs, each once and after what it needs; the first variants come first."""
        jobs: dict[Path, Job] = {}
        for variant in self.variants(patterns).values():
            for seed in seeds:
                for model in variant.models:
                    stages = (self.job(seed, stage) for stage in model.ancestry())
                    for job in chain(stages, [self.evaluation(seed, model)]):
                        jobs.setdefault(job.target, job)
        return list(jobs.values())

    def job(self, seed: int, stage: Stage) -> Job:
        """Return the job of a stage."""
        folder = self.folder(seed, stage)
        words = [*self.words(seed, stage), *options("--set", stage.changes), "--out", str(folder)]
        how = (str(INITIAL), stage.start) if stage.start else ("-m", "reflow")
        made = folder / COMPLETE.get(stage.kind, MODEL)
        needs = tuple(self.folder(seed, parent) for parent in stage.inputs())
        return Job(folder, made, (sys.executable, *how, *words), needs)

    def words(self, seed: int, stage: Stage) -> list[str]:
        """Return the command of a stage without its changes; all after the base take over its recipe."""
        if stage.model is None:
            return ["train", self.recipe, "--seed", str(seed), *options("--set", self.changes)]
        model = str(self.folder(seed, stage.model))
        pairs = options("--pairs", (str(self.folder(seed, pairs)) for pairs in stage.pairs))
        weights = options("--weights", [stage.weights] if stage.weights else [])
        return {
            "pairs": ["couple", model],
            "inverted": ["couple", model, "--invert", "--data", self.settings.data.source],
            "reflow": ["train", *pairs, *weights, "--init", model],
            "distill": ["distill", model, *pairs, *weights],
        }[stage.kind]

    def evaluation(self, seed: int, model: Stage) -> Job:
        """Return the job that measures a model."""
        folder = self.folder(seed, model)
        out = beside(folder, "evaluation.json")
        words = ("evaluate", str(folder), "--nfe", NFE, "--data", self.settings.data.source)
        return Job(out, out, (sys.executable, "-m", "reflow", *words, "--out", str(out)), (folder,))


def beside(path: Path, ending: str) -> Path:
    """Return the path of a note about what is at a path."""
    return path.with_name(f"{path.name}.{ending}")


def options(name: str, values: Iterable[str]) -> list[str]:
    """Return an option once for each value."""
    return [word for value in values for word in (name, value)]


class Queue:
    """Jobs that run as soon as what they need is there, so many at a time, until a deadline or a signal."""

    def __init__(self, jobs: Iterable[Job], *, threads: int, deadline: float) -> None:
        self.waiting = [job for job in jobs if not job.made.exists()]
        self.unmade = {job.target for job in self.waiting}
        self.threads, self.deadline = threads, deadline
        self.failed: list[Job] = []
        self.processes: set[int] = set()
        self.stopped = False

    def run(self, workers: int) -> None:
        """Run what can be run."""
        running: dict[Future[int], Job] = {}
        with ThreadPoolExecutor(workers) as pool:
            while True:
                while len(running) < workers and (job := self.next()):
                    running[pool.submit(self.start, job)] = job
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    self.settle(running.pop(future), future.result())

    def next(self) -> Job | None:
        """Return the first job that may start now."""
        if self.stopped or time.monotonic() > self.deadline:
            return None
        for job in self.waiting:
            if not self.unmade.intersection(job.needs):
                self.waiting.remove(job)
                return job
        return None

    def start(self, job: Job) -> int:
        """Run a command, note the seconds it took beside its target, and return its exit code."""
        job.target.parent.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        with beside(job.target, "log").open("a") as log:
            environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
            process = subprocess.Popen(job.command, stdout=log, stderr=log, env=environment)
            self.processes.add(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
            self.processes.remove(process.pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        spent = {
            "seconds": round(time.perf_counter() - begin, 2),
            "processor": round(usage.ru_utime + usage.ru_stime, 2),
            "threads": self.threads,
            "exit": process.returncode,
        }
        before = json.loads(job.times.read_text()) if job.times.exists() else []
        job.times.write_text(json.dumps([*before, spent], indent=1) + "\n")
        return process.returncode

    def settle(self, job: Job, code: int) -> None:
        """Note how a job ended."""
        self.stopped |= code in INTERRUPTED
        if code or not job.made.exists():
            self.failed.append(job)
            say(f"{job.target}: exit code {code}, see {beside(job.target, 'log')}")
            return
        self.unmade.remove(job.target)
        say(f"{job.target}: {json.loads(job.times.read_text())[-1]['seconds']:.0f} s")

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Start nothing more, and have what is running save its state and leave."""
        del frame
        self.stopped = True
        for process in self.processes if number == signal.SIGTERM else ():  # a terminal tells all itself
            os.kill(process, number)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what says which study is meant."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--recipe", default="digits", help="a built-in recipe or a .toml path (default digits)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change it for all variants")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the study")
    add("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1, 2])
    add("--threads", type=int, default=1, help="threads of each command or peer (default 1)")
    return parser


def study_of(options: argparse.Namespace) -> Study:
    """Return the study that these options mean."""
    return Study(options.recipe, tuple(options.set), options.out)


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--only", nargs="+", default=[], metavar="NAME", help="variants, by patterns such as 'times-*'")
    add("--jobs", type=int, default=1, help="commands that run at the same time (default 1)")
    add("--budget-minutes", type=float, default=float("inf"), help="start nothing after so long")
    add("--dry-run", action="store_true", help="print the commands that are still to be run")
    add("--table", action="store_true", help="print tables of what has been measured")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    study = study_of(options)
    if options.table:
        chosen = study.variants([*options.only, *REFERENCE] if options.only else [])
        print(tables(study.out, chosen, study.text, options.seeds))
        return
    jobs = study.plan(options.seeds, options.only)
    queue = Queue(jobs, threads=options.threads, deadline=time.monotonic() + 60 * options.budget_minutes)
    if options.dry_run:
        print("\n".join(shlex.join(job.command) for job in queue.waiting))
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, queue.stop)
    queue.run(options.jobs)
    left = len(queue.unmade)
    say(f"{len(jobs) - left} of {len(jobs)} commands are complete; {len(queue.failed)} failed now")
    sys.exit(bool(queue.failed))


if __name__ == "__main__":
    try:
        main()
    except ReflowError as error:
        sys.exit(f"study: {error}")
