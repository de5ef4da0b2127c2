"""What assigning noise to data costs a step, and by how much the transport cost falls.

    python benchmarks/transport.py [DATA] [--rounds R]

On the digits, or on labelled 28 x 28 images at a path: batches of 128, 256 and 512, each one group, among
all of it and within classes. In one process, with one thread, in turns: the coupling without and with
the assignment, and a whole step of the networks of benchmarks/train.py. Medians of processor time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ours import CPU, SETTINGS, our_fit
from rounds import table

from reflow.couplings import Coupling, Independent
from reflow.couplings.transport import Transported
from reflow.data import DataSet, open_data
from reflow.flow import Pair
from reflow.randomness import draws
from reflow.recipes.recipe import DataSettings

GROUPS = (128, 256, 512)


def seconds(works: dict[str, Callable[[int], object]], rounds: int) -> dict[str, float]:
    """Return the median processor time of each work, which is given the number of the round."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            begin = time.process_time()
            work(number)
            taken[name].append(time.process_time() - begin)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def drawing(coupling: Coupling, batch: int, costs: list[float]) -> Callable[[int], Pair]:
    """Return what draws a batch of some number, and adds the mean of |x1 - x0|^2 to the costs."""

    def draw(number: int) -> Pair:
        chosen = draws(CPU, batch, seed=0, stream="benchmark", step=number)
        pair = coupling.draw(batch * number + np.arange(batch), chosen)
        costs.append(float((pair.x1 - pair.x0).square().flatten(1).sum(1).mean()))
        return pair

    return draw


def row(data: DataSet, batch: int, rounds: int) -> list[str]:
    """Return what one size of groups costs and does."""
    classless, labelled = (Independent(part, 0) for part in (data.without_labels(), data))
    couplings: dict[str, Coupling] = {
        "independent": classless,
        "assigned": Transported(classless, batch),
        "within classes": Transported(labelled, batch),
    }
    costs: dict[str, list[float]] = {name: [] for name in couplings}
    works: dict[str, Callable[[int], object]] = {
        name: drawing(coupling, batch, costs[name]) for name, coupling in couplings.items()
    }
    setting = SETTINGS["8x8" if data.event[-1] == 8 else "28x28"]
    fit = our_fit(setting.net(), data.without_labels(), batch)
    fit.batches = fit._draw  # type: ignore[assignment]  # in this thread, where its time would count
    spent = seconds(works | {"step": lambda number: fit.advance()}, rounds)  # noqa: ARG005
    more = [1e3 * (spent[name] - spent["independent"]) for name in list(couplings)[1:]]
    short = [statistics.mean(costs[n]) / statistics.mean(costs["independent"]) for n in list(couplings)[1:]]
    step = f"{1e3 * spent['step']:.0f} ms"
    return [
        str(batch),
        *(f"{ms:.1f} ms" for ms in more),
        step,
        *(f"{100 * (1 - part):.1f} %" for part in short),
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("data", nargs="?", type=Path)
    options.add_argument("--rounds", type=int, default=11)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    data = open_data(DataSettings(source=str(chosen.data or "digits"), labels=True), 0)
    heads = ["examples", "assigned", "within classes", "a step", "cost less by", "within classes by"]
    print(table(heads, [row(data, batch, chosen.rounds) for batch in GROUPS]))


if __name__ == "__main__":
    main()
