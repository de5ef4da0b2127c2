"""What a run directory holds: its models and pairs in the order they were made, logs and evaluation."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reflow.artifacts import LOG, MODEL, PAIRS, Header, file_digest, finite, read_header
from reflow.artifacts.facts import Average, ModelFacts, PairFacts, model_facts, pair_facts
from reflow.errors import ReflowError
from reflow.evaluation.results import read_evaluation, with_times
from reflow.pairs.store import read_index
from reflow.recipes.read import parse_recipe
from reflow.recipes.recipe import Recipe

EVALUATION = "evaluation.json"
TIMES = "evaluation.times.json"  # beside it: seconds per image, which differ from time to time
ORDER = ("train", "couple", "reflow", "distill")


@dataclass(frozen=True)
class Entry:
    """One complete artifact of a run: folder, header, digest, bytes on disk and training log."""

    folder: Path
    header: Header
    digest: str
    size: int
    log: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe it was made with."""
        return parse_recipe(self.header.recipe, origin=f"the recipe in {self.folder}")

    @cached_property
    def model_facts(self) -> ModelFacts:
        """What the header of a model says of it."""
        return model_facts(self.header.facts)

    @cached_property
    def pair_facts(self) -> PairFacts:
        """What the index of pairs says of them."""
        return pair_facts(self.header.facts)

    @property
    def average(self) -> Average | None:
        """Which average of a training run a model is, if it is not the usual one."""
        return self.model_facts.average if self.header.kind == "model" else None

    @property
    def seconds(self) -> float | None:
        """Training time, from the log."""
        return self.log[-1]["seconds"] if self.log else None


@dataclass(frozen=True)
class Run:
    """The artifacts of a run in the order they were made, and its evaluation if there is one."""

    folder: Path
    entries: list[Entry]
    evaluation: dict[str, Any] | None

    @property
    def name(self) -> str:
        """Name of the directory."""
        return self.folder.resolve().name

    def models(self) -> list[Entry]:
        """Return the models."""
        return [entry for entry in self.entries if entry.header.kind == "model"]

    def evaluated(self) -> dict[str, dict[str, Any]]:
        """Return what the evaluation says of the run's own models, by name; others are left out."""
        found = {model["sha256"]: model for model in (self.evaluation or {"models": []})["models"]}
        return {entry.name: found[entry.digest] for entry in self.models() if entry.digest in found}

    def name_of(self, digest: str) -> str | None:
        """Return the folder of the artifact with this digest, or None if the run lacks it."""
        return next((entry.name for entry in self.entries if entry.digest == digest), None)


def open_run(folder: Path) -> Run:
    """Return what is in a run directory.

    Raises ReflowError when it is not a directory or holds no model.
    """
    if not folder.is_dir():
        raise ReflowError(f"{folder} is not a run directory; give the one that holds base/, pairs/ ...")
    if _entry(folder) is not None:
        raise ReflowError(f"{folder} is one artifact of a run; give the directory that it lies in")
    found = [_entry(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    entries = sorted(
        (entry for entry in found if entry is not None),
        key=lambda entry: (
            entry.header.rectification,
            ORDER.index(entry.header.stage),
            entry.average is not None,  # after the model of the same training run
        ),
    )
    run = Run(folder, entries, _evaluation(folder / EVALUATION, folder / TIMES))
    if not run.models():
        raise ReflowError(
            f"{folder} holds no complete model in base/, reflow/ ...; finish reflow train first"
        )
    return run


def _entry(folder: Path) -> Entry | None:
    if (folder / MODEL).exists():
        path, header = folder / MODEL, read_header(folder / MODEL, "model")
    elif (folder / PAIRS).exists():
        path = folder / PAIRS
        header, _ = read_index(path)
    else:
        return None
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return Entry(folder, header, file_digest(path), size, _read_log(folder / LOG))


def _read_log(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [finite(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    except ValueError as error:
        raise ReflowError(f"{path} is not JSON lines; remove it to report without it") from error


def _evaluation(path: Path, times: Path) -> dict[str, Any] | None:
    """Return the evaluation of a run, with the seconds of its samples where they are known."""
    if not path.exists():
        return None
    content = read_evaluation(path)
    return with_times(content, times) if times.exists() else content
