"""Facts: what a header says of its artifact beside the recipe, as frozen values with one JSON.

JSON holds no key whose value is None, False or an empty tuple, except `classes` and `student_steps`, which
format 1 has always written. Keys of other versions are passed over.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

ALWAYS = ("classes", "student_steps")


@dataclass(frozen=True)
class Split:
    """How the data of a base model was divided: its digest, the seed, the share held out."""

    data: str
    seed: int
    held_out: float


@dataclass(frozen=True)
class Average:
    """Which average of a training run a model is: relative width, last step, snapshots used."""

    width: float
    step: int
    snapshots: int

    def __str__(self) -> str:
        return f"width {self.width:g} at step {self.step}, snapshots: {self.snapshots}"


@dataclass(frozen=True)
class ModelFacts:
    """Of a model: shape of a sample, classes, size, and how it was trained.

    student_steps: Euler steps of a distilled model, None of a velocity field; unconditional: it has a null
    label; spans: it knows average velocities; weights: shares of several sets of pairs.
    """

    event: tuple[int, ...]
    classes: int | None
    student_steps: int | None
    split: Split | None = None
    steps: int = 0
    parameters: int = 0
    training_samples: int = 0
    held_out_samples: int = 0
    class_names: tuple[str, ...] = ()
    unconditional: bool = False
    spans: bool = False
    weights: tuple[float, ...] = ()
    average: Average | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what stands in the header."""
        return _plain(asdict(self))


@dataclass(frozen=True)
class PairFacts:
    """Of a set of pairs: shape of a sample, classes and, once it is complete, its totals.

    inverted: real images taken to noise; nfe_*: network evaluations per pair; plan, pilot: by which solver,
    and how accurate; against: how it covers the first round's pairs.
    """

    event: tuple[int, ...]
    classes: int | None = None
    inverted: bool = False
    count: int | None = None
    nfe_mean: float | None = None
    nfe_max: int | None = None
    nfe_histogram: dict[str, int] | None = None
    plan: dict[str, Any] | None = None
    pilot: dict[str, Any] | None = None
    against: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what stands in the header."""
        return _plain(asdict(self))


_MODEL, _PAIRS = TypeAdapter(ModelFacts), TypeAdapter(PairFacts)


def model_facts(content: Mapping[str, Any]) -> ModelFacts:
    """Return the facts in a model's header; raises ValueError where they are not a model's."""
    return _MODEL.validate_python(dict(content))


def pair_facts(content: Mapping[str, Any]) -> PairFacts:
    """Return the facts in the header of pairs; raises ValueError where they are not of pairs."""
    return _PAIRS.validate_python(dict(content))


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in content.items()
        if key in ALWAYS or (value is not None and value is not False and value != ())
    }
