"""What the demo's solvers cost and reach: network evaluations, error and seconds on a trained model.

    python benchmarks/demo.py [RUN]      (default runs/digits; `make all` makes it)

Prints the tables of docs/benchmarks.md. The reference is the same ODE solved at tolerance 1e-5; errors
are root mean squares over the image in [-1, 1] units: over all samples, and of the worst sample.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from reflow import integrate, load_model
from reflow.models import Model
from reflow.randomness import noise
from reflow.solvers.plan import steps_for
from reflow.solvers.solution import Solution

SAMPLES = 256
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
BUDGETS = (4, 8, 16, 32, 64)
FIXED = ("euler", "midpoint", "heun", "rk4", "dpm2m", "adams3", "adams4")


def errors(x1: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    square = (x1 - truth).square().flatten(1).mean(1)
    return float(square.mean().sqrt()), float(square.max().sqrt())


def timed(solve: Callable[[], Solution]) -> tuple[Solution, float]:
    begin = time.perf_counter()
    solution = solve()
    return solution, time.perf_counter() - begin


def adaptive_table(model: Model, x0: torch.Tensor, truth: torch.Tensor) -> None:
    print("| tolerance | RMS error | worst sample | NFE mean | NFE max | s |\n|---|---|---|---|---|---|")
    for tolerance in TOLERANCES:
        solution, seconds = timed(lambda t=tolerance: integrate(model, x0, tolerance=t))  # type: ignore[misc]
        rms, worst = errors(solution.x1, truth)
        nfe = solution.nfe.double()
        spent = f"{nfe.mean():.1f} | {nfe.max():.0f} | {seconds:.1f}"
        print(f"| {tolerance:g} | {rms:.1e} | {worst:.1e} | {spent} |")


def fixed_table(model: Model, x0: torch.Tensor, truth: torch.Tensor) -> None:
    print("\n| NFE | " + " | ".join(FIXED) + " |\n|---|" + "---|" * len(FIXED))
    for nfe in BUDGETS:
        row = []
        for solver in FIXED:
            solution = integrate(model, x0, solver=solver, steps=steps_for(solver, nfe))
            row.append(f"{errors(solution.x1, truth)[0]:.1e}")
        print(f"| {nfe} | " + " | ".join(row) + " |")


def main() -> None:
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/digits")
    for name in ("base", "reflow"):
        model = load_model(run / name)
        x0 = noise(0, "benchmark", range(SAMPLES), model.event)
        truth = integrate(model, x0, tolerance=1e-5)
        print(f"\n### {name}: {SAMPLES} samples, reference {truth.nfe.double().mean():.0f} NFE\n")
        adaptive_table(model, x0, truth.x1)
        fixed_table(model, x0, truth.x1)


if __name__ == "__main__":
    main()
