"""What a study has measured, from its files: tables with mean, spread and noise over the seeds.

A cell is mean ± standard deviation over seeds. Whether it differs from the same cell of the reference
(the recipe's own chain) is judged by the differences within each seed, as the seed also decides which
data are held out: less than ERRORS standard errors of their mean is within the noise.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # tables and peers serve both

from rounds import table
from variants import Stage, Variant

ERRORS = 2.0  # standard errors of paired differences
NOISE = "≈"
BUDGETS = (1, 2, 4, 16, 100)  # network evaluations
RECALLED = 16  # evaluations, as not every study goes further
PEERS = "peers: same network, data and time, compared with our student"
REFERENCE = ("base", "2-rectified")  # the variants whose models are the recipe's own
DISTANCES = ("frechet_classifier", "sliced_wasserstein")  # the first that was measured is shown
LEGEND = (
    f"Mean ± standard deviation over seeds. {NOISE}: within the noise, the difference from the recipe's "
    f"own model in the same seeds being less than {ERRORS:g} standard errors of its mean (with three "
    "seeds chance alone exceeds them once in five)."
)

Values = dict[int, float]  # by seed


@dataclass
class Row:
    """A model of a variant: its figures by column and seed."""

    variant: str
    kind: str
    cells: dict[str, Values] = field(default_factory=dict)

    def note(self, column: str, seed: int, value: float | None) -> None:
        if value is not None:
            self.cells.setdefault(column, {})[seed] = value


def spread(values: Values) -> str:
    """Return mean ± standard deviation."""
    if not values:
        return ""
    mean = statistics.fmean(values.values())
    return f"{mean:.4g}" + (f" ± {statistics.stdev(values.values()):.2g}" if len(values) > 1 else "")


def difference(values: Values, reference: Values) -> tuple[float, float] | None:
    """Return the mean difference in the seeds of both and its standard error, of two seeds or more."""
    seeds = values.keys() & reference.keys()
    if len(seeds) < 2:
        return None
    each = [values[seed] - reference[seed] for seed in seeds]
    return statistics.fmean(each), statistics.stdev(each) / len(each) ** 0.5


def within_noise(values: Values, reference: Values) -> bool:
    """Return whether values are known to differ by less than chance explains."""
    found = difference(values, reference)
    return found is not None and abs(found[0]) < ERRORS * found[1]


def measured(row: Row, seed: int, model: Mapping[str, Any], floor: Mapping[str, float]) -> None:
    """Enter the figures of a model as `reflow evaluate` writes them.

    Recall is that of a student's fewest evaluations and of a velocity field's most up to RECALLED.
    """
    name = next(name for name in DISTANCES if name in floor)
    fixed = {round(figure["nfe"]): figure for figure in model["figures"] if figure["tolerance"] is None}
    for nfe, figure in fixed.items():
        row.note(str(nfe), seed, figure[name])
    budgets = [nfe for nfe in fixed if nfe <= RECALLED]
    told = (min if model["stage"] == "distill" else max)(budgets, default=0)
    row.note("recall", seed, fixed.get(told, {}).get("recall"))
    row.note("straightness", seed, model["straightness"])
    row.note("floor", seed, floor[name])


def seconds_of(path: Path, clock: str = "processor") -> float | None:
    """Return the seconds of all sessions of a command, if it ran to its end; clock: also "seconds"."""
    if not path.exists():
        return None
    sessions = json.loads(path.read_text())
    total: float = sum(session[clock] for session in sessions)
    return total if sessions[-1]["exit"] == 0 else None


def trained_in(folder: Path, model: Stage, recipe: str) -> float | None:
    """Return the seconds of a model and of everything that it came from, if all are known."""
    each = [seconds_of(folder / f"{stage.name(recipe)}.times.json") for stage in model.ancestry()]
    known = [seconds for seconds in each if seconds is not None]
    return sum(known) if len(known) == len(each) else None


def rows_of(out: Path, name: str, variant: Variant, recipe: str, seeds: Sequence[int]) -> Iterator[Row]:
    """Yield the models of a variant that have been measured."""
    for model in variant.models:
        row = Row(name, model.kind)
        for seed in seeds:
            folder = out / f"seed-{seed}"
            path = folder / f"{model.name(recipe)}.evaluation.json"
            if path.exists():
                content = json.loads(path.read_text())
                measured(row, seed, content["models"][0], content["floor"])
                row.note("seconds", seed, trained_in(folder, model, recipe))
        if row.cells:
            yield row


def peers(out: Path, seeds: Sequence[int]) -> list[Row]:
    """Return the models of other pipelines: see pipelines.py."""
    rows: dict[tuple[str, str], Row] = {}
    for seed in seeds:
        for path in sorted((out / f"seed-{seed}").glob("peer-*.evaluation.json")):
            content = json.loads(path.read_text())
            phases = json.loads((path.parent / path.name.replace("evaluation", "times")).read_text())
            name = path.name.removesuffix(".evaluation.json").removeprefix("peer-")
            for model in content["models"]:
                kind = "base" if model["stage"] == "train" else model["stage"]
                row = rows.setdefault((name, kind), Row(name, kind))
                measured(row, seed, model, content["floor"])
                row.note("seconds", seed, until(model["stage"], phases))
    return list(rows.values())


def until(stage: str, phases: Sequence[Mapping[str, Any]]) -> float:
    """Return the seconds of the phases up to the one of a stage."""
    last = next(n for n, phase in enumerate(phases) if stage in phase["phase"].split(" + "))
    total: float = sum(phase["seconds"] for phase in phases[: last + 1])
    return total


def line(row: Row, references: Mapping[str, Row], rival: Row | None = None) -> list[str]:
    """Return the row of a table: its cells, marked where they are within the noise of the reference.

    The difference at one evaluation is from the rival, or from the reference without one.
    """
    reference = references.get(row.kind, Row("", ""))
    own = row.variant == reference.variant

    def cell(column: str) -> str:
        values, other = row.cells.get(column, {}), reference.cells.get(column, {})
        return spread(values) + (f" {NOISE}" if not own and within_noise(values, other) else "")

    found = difference(row.cells.get("1", {}), (rival or reference).cells.get("1", {}))
    against = "" if own or found is None else f"{found[0]:+.3g} ± {found[1]:.2g}"
    figures = [cell(str(budget)) for budget in BUDGETS]
    last = [cell("recall"), cell("straightness"), spread(row.cells.get("seconds", {}))]
    seeds = max(len(values) for values in row.cells.values())
    return [row.variant, row.kind, *figures, against, *last, str(seeds)]


def ratios(references: Mapping[str, Row]) -> str:
    """Return, seed by seed, the ratios that say what each stage is for."""
    wanted: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
        "base at 100 / floor": (("base", "100"), ("base", "floor")),
        "distilled at 1 / base at 100": (("distill", "1"), ("base", "100")),
        "reflowed at 2 / base at 100": (("reflow", "2"), ("base", "100")),
        "base at 1 / base at 100": (("base", "1"), ("base", "100")),
        "straightness, base / reflowed": (("base", "straightness"), ("reflow", "straightness")),
    }

    def values(kind: str, column: str) -> Values:
        return references[kind].cells.get(column, {}) if kind in references else {}

    lines = []
    for name, (above, below) in wanted.items():
        upper, lower = values(*above), values(*below)
        each = {seed: upper[seed] / lower[seed] for seed in sorted(upper.keys() & lower.keys())}
        if each:
            lines.append([name, spread(each), ", ".join(f"{ratio:.3g}" for ratio in each.values())])
    return table(["ratio", "mean", "seed by seed"], lines)


def tables(out: Path, chosen: Mapping[str, Variant], recipe: str, seeds: Sequence[int]) -> str:
    """Return Markdown: the recipe's own chain against the floor, then a table of each group."""
    found = {name: list(rows_of(out, name, variant, recipe, seeds)) for name, variant in chosen.items()}
    own = [row for name in REFERENCE for row in found.get(name, [])]
    references = {row.kind: row for row in own}
    groups: dict[str, list[Row]] = {}
    for name, variant in chosen.items():
        groups.setdefault(variant.group, []).extend(found[name])
    parts = [LEGEND, *_floor(own), ratios(references)]
    for group, rows in groups.items():
        parts += [_section(group, [line(row, references) for row in _with(own, rows)])] if rows else []
    others = peers(out, seeds)
    if others:
        lines = [line(row, references, references.get("distill")) for row in _with(own, others)]
        parts.append(_section(PEERS, lines))
    return "\n\n".join(parts)


def _section(title: str, lines: Sequence[Sequence[str]]) -> str:
    """Return a table under its title."""
    heads = ["variant", "model", *map(str, BUDGETS), "at 1, less the recipe's (± its error)"]
    heads += ["recall", "straightness", "processor s", "seeds"]
    return f"### {title[:1].upper()}{title[1:]}\n\n{table(heads, lines)}"


def _with(own: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Return rows after those that they are compared with."""
    kinds = {row.kind for row in rows}
    return [*(row for row in own if row.kind in kinds and row not in rows), *rows]


def _floor(own: Sequence[Row]) -> list[str]:
    """Return the line about real data, if anything was measured."""
    floors = [row.cells["floor"] for row in own if "floor" in row.cells]
    most = max(floors, key=len, default={})
    return [f"Real training data against held-out data (floor): {spread(most)}."] if most else []
