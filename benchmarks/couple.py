"""What pairs cost: our solver against those that users would otherwise take, on the same field and noise.

    make bench SAMPLES=256
    .venv-bench/bin/python benchmarks/couple.py --models runs/digits/base --samples 256
    .venv-bench/bin/python benchmarks/couple.py --field gaussian mixture

Prints Markdown: each method's curve, then what equal error costs in network evaluations and in time, with
our share of it in brackets (below 1: we are cheaper). NFE is counted in the field, rows evaluated per
sample, with everything a method does before it solves.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from curves import TARGETS, Curve, Point, curve_table, equal_error_table, evaluations, time_spent
from peers import PEERS
from problems import Counted, Problem, analytic, rms_errors, trained, true_ends
from torch import Tensor

from reflow import integrate
from reflow.devices import choose_device
from reflow.flow import VelocityField
from reflow.noise import noise

OURS = "reflow"
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
ENOUGH = min(TARGETS) / 2  # a curve needs no points more accurate than this
LIBRARIES = ("torch", "scipy", "torchdiffeq", "torchode", "flow_matching", "diffusers")

Method = Callable[[VelocityField, Tensor, int], Tensor]  # field, x0 (N, *event), batch -> x1


def ours(field: VelocityField, x0: Tensor, batch: int, *, tolerance: float) -> Tensor:
    """Make all the pairs as `reflow couple` does: a pilot, too, asks `field`, which counts."""
    return torch.cat([integrate(field, part, tolerance=tolerance).x1 for part in x0.split(batch)])


def in_batches(solve: Callable[[VelocityField, Tensor], Tensor]) -> Method:
    """Return the method that gives a peer one batch after the other."""
    return lambda field, x0, batch: torch.cat([solve(field, part) for part in x0.split(batch)])


def methods(only: list[str]) -> dict[str, dict[str, Method]]:
    """Return the settings of ours and of those peers whose name has a word of `only` (all if empty)."""
    table: dict[str, dict[str, Method]] = {
        OURS: {f"{value:g}": partial(ours, tolerance=value) for value in TOLERANCES}
    }
    for name, settings in PEERS.items():
        if not only or any(word in name for word in only):
            table[name] = {setting: in_batches(solve) for setting, solve in settings.items()}
    return table


def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Return the result and the seconds it took."""
    begin = time.perf_counter()
    result = work()
    if result.is_cuda:
        torch.cuda.synchronize()
    return result, time.perf_counter() - begin


def bare_seconds(field: VelocityField, x: Tensor) -> list[float]:
    """Return the seconds of some evaluations of one batch with nothing around them."""
    t = torch.full((len(x),), 0.5).to(x)
    return [timed(lambda: field(x, t))[1] for _ in range(4)]


def measure(
    method: Method, setting: str, field: VelocityField, x0: Tensor, truth: Tensor, batch: int
) -> Point:
    """Return one run of one setting."""
    counted = Counted(field)
    bare = bare_seconds(field, x0[:batch])
    x1, seconds = timed(lambda: method(counted, x0, batch))
    bare += bare_seconds(field, x0[:batch])
    per_row = statistics.median(bare) / len(x0[:batch])
    return Point(
        setting, counted.rows / len(x0), *rms_errors(x1, truth), seconds, seconds / (per_row * counted.rows)
    )


def compare(
    table: dict[str, dict[str, Method]],
    field: VelocityField,
    x0: Tensor,
    truth: Tensor,
    batch: int,
    repeats: int,
) -> dict[str, Curve]:
    """Return a curve per method, measured in turns: coarse settings of all, then finer ones."""
    curves: dict[str, list[Point]] = {name: [] for name in table}
    for name, setting, method in in_turns(table):
        curve = curves[name]
        if curve and curve[-1].rms < ENOUGH:
            continue
        runs = [measure(method, setting, field, x0, truth, batch) for _ in range(repeats)]
        point = sorted(runs, key=lambda run: run.overhead)[len(runs) // 2]
        curve.append(point)
        say(f"{name} {setting}: {point.nfe:.1f} NFE, error {point.rms:.1e}, {point.seconds:.1f} s")
    return curves


def in_turns(table: dict[str, dict[str, Method]]) -> Iterator[tuple[str, str, Method]]:
    """Yield (name, setting, method), the first setting of every method before the second of any."""
    for turn in range(max(map(len, table.values()))):
        for name, settings in table.items():
            for setting in list(settings)[turn : turn + 1]:
                yield name, setting, settings[setting]


def report(problem: Problem, x0: Tensor, curves: dict[str, Curve], truth: str, batch: int) -> None:
    print(f"\n### {problem.name}: {len(x0)} samples, batches of {batch}\n\nTruth: {truth}.\n")
    print(curve_table(curves))
    for title, cost in (
        ("network evaluations", evaluations),
        ("time, as evaluations of the bare network", time_spent),
    ):
        print(f"\nAt equal RMS error, {title} (in brackets ours / theirs):\n")
        print(equal_error_table(curves, OURS, cost))


def raw(problem: Problem, curves: dict[str, Curve], truth: str) -> dict[str, Any]:
    """Return one problem's numbers for JSON."""
    return {
        "problem": problem.name,
        "truth": truth,
        "curves": {name: [point._asdict() for point in curve] for name, curve in curves.items()},
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, some = parser.add_argument, partial(parser.add_argument, nargs="+", default=[])
    some("--models", type=Path, metavar="MODEL", help="trained models, as `reflow train` leaves them")
    some("--field", choices=("gaussian", "mixture"), help="fields in closed form")
    some("--only", metavar="WORD", help="only peers with one of these words in their name")
    add("--samples", type=int, default=2000, help="how many noises (default 2000)")
    add("--batch", type=int, default=256, help="samples solved at once (default 256)")
    add(
        "--repeats", type=int, default=1, help="runs of each setting; the median in time counts (default 1)"
    )
    add("--device", default="cpu", help="auto, cpu, cuda, cuda:1 or mps (default cpu)")
    add("--out", type=Path, metavar="FILE.json", help="write the raw numbers here")
    options = parser.parse_args()
    if not options.models and not options.field:
        parser.error("name something to solve: --models or --field")
    return options


@torch.no_grad()
def main() -> None:
    options = arguments()
    device = choose_device(options.device)
    problems = [trained(path, device) for path in options.models]
    problems += [analytic(name, device) for name in options.field]
    table = methods(options.only)
    results = []
    for problem in problems:
        x0 = noise(0, "benchmark", range(options.samples), problem.event).to(device)
        truth, origin = true_ends(problem, x0, options.batch)
        say(f"{problem.name}: the truth took {origin}")
        curves = compare(table, problem.field, x0, truth, options.batch, options.repeats)
        report(problem, x0, curves, origin, options.batch)
        results.append(raw(problem, curves, origin))
    if options.out:
        settings = {name: getattr(options, name) for name in ("samples", "batch", "repeats", "device")}
        versions = {name: version(name) for name in LIBRARIES}
        content = {**settings, "threads": torch.get_num_threads(), "versions": versions, "results": results}
        options.out.write_text(json.dumps(content, indent=1) + "\n")


def say(line: str) -> None:
    print(f"couple: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
