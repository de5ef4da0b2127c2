"""What comes first on the page: what one evaluation costs and gives, in sentences with their figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reflow.report.numbers import milliseconds, tell, tell_error, tell_zeros
from reflow.report.run import Run
from reflow.report.tables import SECONDS, STAGES, Evaluated, error_of, fewest, judged, most, words_of

COLLAPSED_BELOW = 0.8  # share of the recall or spread of real data below which samples are called collapsed
NEAREST = ("median", "fifth_percentile")  # distances to the nearest training sample
NEARER = 0.9  # of held-out data's distance to the training data, below which they are called copies


@dataclass(frozen=True)
class Fact:
    """A figure to be seen at a glance: what it is, its value and what it compares with."""

    label: str
    value: str
    beside: str


def sentences(run: Run) -> list[str]:
    """Return what is to be said of a run, the most important first; nothing without an evaluation."""
    if (known := judged(run)) is None:
        return []
    evaluation, evaluated, metric = known
    said = [
        _one_step(evaluation, evaluated, metric),
        _straightness(evaluated),
        _coverage(evaluation, evaluated),
        _copies(evaluation, evaluated),
    ]
    return [sentence for sentence in said if sentence]


def facts(run: Run) -> list[Fact]:
    """Return the figures of the summary."""
    if (known := judged(run)) is None:
        return []
    evaluation, evaluated, metric = known
    floor = evaluation["floor"]
    last, base = last_model(evaluated), base_model(evaluated)
    few = fewest(evaluated[last])
    found = [Fact(f"{last}, {_count(few['nfe'])}", tell_zeros(few[metric]), words_of(metric))]
    if base is not None and base != last:
        many, once = most(evaluated[base]), fewest(evaluated[base])
        said = f"{tell_zeros(once[metric])} with {_count(once['nfe'])}"
        found.append(Fact(f"{base}, {_count(many['nfe'])}", tell_zeros(many[metric]), said))
    found.append(Fact("training data", tell_zeros(floor[metric]), "the floor: as many real samples"))
    straight, ratio = _straight(evaluated), times_straighter(evaluated)
    if ratio is not None:
        found.append(Fact("times straighter", tell(ratio), f"{straight[-1][0]} than {straight[0][0]}"))
    if few.get("recall") is not None and floor.get("recall") is not None:
        found.append(
            Fact(f"recall of {last}", f"{few['recall']:.2f}", f"training data: {floor['recall']:.2f}")
        )
    return found


def last_model(evaluated: Evaluated) -> str:
    """Return the model that the run was made for: the first student, or else the last model."""
    students = [name for name, model in evaluated.items() if model["student_steps"] is not None]
    return students[0] if students else list(evaluated)[-1]


def base_model(evaluated: Evaluated) -> str | None:
    """Return the name of the base model, if it was evaluated."""
    return next((name for name, model in evaluated.items() if model["stage"] == "train"), None)


def times_straighter(evaluated: Evaluated) -> float | None:
    """Return by how much the last velocity field is straighter than the first one."""
    straight = _straight(evaluated)
    if len(straight) < 2 or straight[-1][1] <= 0:
        return None
    return straight[0][1] / straight[-1][1]


def _one_step(evaluation: Mapping[str, Any], evaluated: Evaluated, metric: str) -> str:
    last, base = last_model(evaluated), base_model(evaluated)
    few = fewest(evaluated[last])
    floor = f"Training data themselves are {_distance(evaluation['floor'], metric)} away (the floor)."
    said = (
        f"With {_count(few['nfe'])} per sample the {STAGES[evaluated[last]['stage']]} reaches a "
        f"{words_of(metric)} of {_distance(few, metric)} to held-out data"
    )
    if base is None or base == last:
        many = most(evaluated[last])
        return f"{said}, with {_count(many['nfe'])} of {_distance(many, metric)}. {floor}"
    many, once = most(evaluated[base]), fewest(evaluated[base])
    time = ""
    if SECONDS in few and SECONDS in many:
        fast, slow = milliseconds(few[SECONDS]), milliseconds(many[SECONDS])
        time = f" A sample takes {fast} ms instead of {slow} ms."
    return (
        f"{said}; the base model reaches {_distance(many, metric)} with {_count(many['nfe'])} and "
        f"{_distance(once, metric)} with {tell(once['nfe'])}. {floor}{time}"
    )


def _distance(found: Mapping[str, Any], metric: str) -> str:
    return tell_error(found[metric], error_of(found, metric))


def _straightness(evaluated: Evaluated) -> str | None:
    straight = _straight(evaluated)
    ratio = times_straighter(evaluated)
    if ratio is None:
        return None
    (first, before), (name, after) = straight[0], straight[-1]
    more = max(ratio, 1 / ratio)
    way = "rises" if after > before else "falls"
    side = "more curved" if after > before else "straighter"
    return (
        f"Straightness (0 is straight) {way} from {tell(before)} to {tell(after)}: the paths of {name} are "
        f"{tell(more)} times {side} than those of {first}."
    )


def _coverage(evaluation: Mapping[str, Any], evaluated: Evaluated) -> str | None:
    last, floor = last_model(evaluated), evaluation["floor"]
    few = fewest(evaluated[last])
    known = [key for key in ("recall", "spread") if floor.get(key) and few.get(key) is not None]
    if not known:
        return None
    said = " and ".join(f"{key} {few[key]:.2f} (training data: {floor[key]:.2f})" for key in known)
    low = [key for key in known if few[key] < COLLAPSED_BELOW * floor[key]]
    verdict = f"part of the data is lost: low {' and '.join(low)}" if low else "no sign of collapse"
    return f"Samples of {last} with {_count(few['nfe'])} have {said}: {verdict}."


def _copies(evaluation: Mapping[str, Any], evaluated: Evaluated) -> str | None:
    last = last_model(evaluated)
    near = evaluated[last].get("nearest_training")
    held_out = evaluation.get("nearest_training", {}).get("held_out")
    if not near or not held_out:
        return None
    if any(one[key] is None for one in (near, held_out) for key in NEAREST):
        return None
    both = all(near[key] >= NEARER * held_out[key] for key in NEAREST)
    verdict = "no sign of memorising" if both else "nearer than unseen data, so look for copies"
    medians, fifths = ([tell_zeros(one[key]) for one in (near, held_out)] for key in NEAREST)
    return (
        f"The nearest training sample is {medians[0]} RMS away from samples of {last} and {medians[1]} "
        f"from held-out data (medians; 5th percentiles {fifths[0]} and {fifths[1]}): {verdict}."
    )


def _straight(evaluated: Evaluated) -> list[tuple[str, float]]:
    values = ((name, model["straightness"]) for name, model in evaluated.items())
    return [(name, value) for name, value in values if value is not None]


def _count(nfe: float) -> str:
    return f"{tell(nfe)} evaluation{'' if nfe == 1 else 's'}"
