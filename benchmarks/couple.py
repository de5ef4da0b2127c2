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
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch, and as `reflow` itself runs

import torch
from curves import TARGETS, Curve, Point, curve_table, equal_error_table, evaluations, time_spent
from peers import PEERS
from problems import Counted, Problem, analytic, rms_errors, trained, true_ends
from torch import Tensor

from reflow.devices import choose_device
from reflow.flow import VelocityField
from reflow.randomness import noise
from reflow.solvers.pilot import Pilot, calibrate, samples_for
from reflow.solvers.solution import follow

OURS = "reflow"
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
BRIEF = ("0.001", "0.0001", "1e-05", "1e-06", "16 steps", "32 steps", "64 steps", "192 steps")  # of peers
ENOUGH = min(TARGETS) / 2  # a curve needs no points more accurate than this
LIBRARIES = ("torch", "scipy", "torchdiffeq", "torchode", "flow_matching", "diffusers")

Method = Callable[[VelocityField, Tensor, int], Tensor]  # field, x0 (N, *event), batch -> x1


def ours(field: VelocityField, x0: Tensor, batch: int, *, tolerance: float) -> Tensor:
    """Make all the pairs as `reflow couple` does: a pilot, too, asks `field`, which counts."""
    start = noise(0, "pilot", range(samples_for(len(x0))), tuple(x0.shape[1:])).to(x0)
    plan, _ = calibrate(Pilot(field, start, None), "adams", tolerance)
    return follow(plan, field, x0, batch=batch).x1


def in_batches(solve: Callable[[VelocityField, Tensor], Tensor]) -> Method:
    """Return the method that gives a peer one batch after the other."""
    return lambda field, x0, batch: torch.cat([solve(field, part) for part in x0.split(batch)])


def methods(only: list[str], *, brief: bool) -> dict[str, dict[str, Method]]:
    """Return the settings of those methods whose name has a word of `only`, of all if it is empty."""
    table: dict[str, dict[str, Method]] = {
        OURS: {f"{value:g}": partial(ours, tolerance=value) for value in TOLERANCES}
    }
    for name, settings in PEERS.items():
        chosen = [setting for setting in settings if not brief or setting in BRIEF]
        table[name] = {setting: in_batches(settings[setting]) for setting in chosen}
    return {name: table[name] for name in table if not only or any(word in name for word in only)}


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


def measurements(
    table: Mapping[str, dict[str, Method]],
    problem: Problem,
    x0: Tensor,
    truth: Tensor,
    batch: int,
    repeats: int,
) -> Iterator[tuple[str, Point]]:
    """Yield (name, point) of all methods in turns, each until its curve is accurate enough."""
    done: set[str] = set()
    for name, setting, method in in_turns(table):
        if name in done:
            continue
        runs = [measure(method, setting, problem.field, x0, truth, batch) for _ in range(repeats)]
        point = sorted(runs, key=lambda run: run.overhead)[len(runs) // 2]
        if point.rms < ENOUGH:
            done.add(name)
        say(f"{name} {setting}: {point.nfe:.1f} NFE, error {point.rms:.1e}, {point.seconds:.1f} s")
        yield name, point


def in_turns(table: Mapping[str, dict[str, Method]]) -> Iterator[tuple[str, str, Method]]:
    """Yield (name, setting, method), the first setting of every method before the second of any."""
    for turn in range(max(map(len, table.values()))):
        for name, settings in table.items():
            for setting in list(settings)[turn : turn + 1]:
                yield name, setting, settings[setting]


def report(problem: Problem, x0: Tensor, curves: Mapping[str, Curve], truth: str, batch: int) -> None:
    print(f"\n### {problem.name}: {len(x0)} samples, batches of {batch}\n\nTruth: {truth}.\n")
    print(curve_table(curves))
    for title, cost in (
        ("network evaluations", evaluations),
        ("time, as evaluations of the bare network", time_spent),
    ):
        print(f"\nAt equal RMS error, {title} (in brackets ours / theirs):\n")
        print(equal_error_table(curves, OURS, cost))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, some = parser.add_argument, partial(parser.add_argument, nargs="+", default=[])
    some("--models", type=Path, metavar="MODEL", help="trained models, as `reflow train` leaves them")
    some("--field", choices=("gaussian", "mixture"), help="fields in closed form")
    some("--only", metavar="WORD", help="only methods with one of these words in their name")
    add("--brief", action="store_true", help="four settings of every peer instead of all")
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
    if not methods(options.only, brief=options.brief):
        parser.error(f"--only: the methods are {', '.join(methods([], brief=False))}")
    return options


def benchmark(problem: Problem, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Measure and print one problem; return its numbers for JSON and whether it was stopped early."""
    x0 = noise(0, "benchmark", range(options.samples), problem.event).to(choose_device(options.device))
    truth, origin = true_ends(problem, x0, options.batch)
    say(f"{problem.name}: the truth took {origin}")
    table = methods(options.only, brief=options.brief)
    curves: dict[str, list[Point]] = {name: [] for name in table}
    stopped = False
    try:
        for name, point in measurements(table, problem, x0, truth, options.batch, options.repeats):
            curves[name].append(point)
    except KeyboardInterrupt:
        stopped = True
        say("stopped early: the tables hold what was measured")
    report(problem, x0, curves, origin, options.batch)
    numbers = {name: [point._asdict() for point in curve] for name, curve in curves.items()}
    return {"problem": problem.name, "truth": origin, "curves": numbers}, stopped


@torch.no_grad()
def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = arguments()
    device = choose_device(options.device)
    problems = [trained(path, device) for path in options.models]
    problems += [analytic(name, device) for name in options.field]
    content = {name: getattr(options, name) for name in ("samples", "batch", "repeats", "device")}
    content["threads"] = torch.get_num_threads()
    content["versions"] = {name: version(name) for name in LIBRARIES}
    content["results"] = []
    for problem in problems:
        numbers, stopped = benchmark(problem, options)
        content["results"].append(numbers)
        if options.out:
            options.out.write_text(json.dumps(content, indent=1) + "\n")
        if stopped:
            raise SystemExit(130)


def say(line: str) -> None:
    print(f"couple: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
