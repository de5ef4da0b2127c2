"""What a training step costs: our loop and our U-Net against those that users would otherwise take.

    make bench
    .venv-bench/bin/python benchmarks/train.py
    .venv-bench/bin/python benchmarks/train.py --brief --only loops

Prints Markdown: the same network in every project's loop, networks of equal cost with the machine's own
peak beside them, where our step's time goes, and what torch.compile adds. All take turns, each in a
process of its own; figures are medians over the rounds, those in brackets the best round. Ratios are
medians of each round's ratio. On a machine that others use too, `--clock cpu` tells more.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch, and as `reflow` itself runs

import torch
from breakdown import breakdown
from loops import LOOPS
from ours import EQUAL, SETTINGS, Setting, Work, our_passes, our_work, passes
from rounds import CLOCKS, Contestant, Timing, alternate, paid_back, table
from torch import nn
from unets import FAMILIES, Cost, Shape, as_defined, cost, equal

OURS, GIVING_BACK = "reflow", "reflow, memory given back"
STEPS = {"8x8": 10, "28x28": 2}  # between two readings of the clock
SIDE = 1024  # of the matrices whose product is the machine's peak
LIBRARIES = ("torch", "torchcfm", "rectified-flow", "rectified-flow-pytorch", "diffusers", "accelerate")


def loops(size: str, options: argparse.Namespace) -> Any:
    """Measure the same network in every project's loop."""
    setting, steps = SETTINGS[size], STEPS[size]
    contestants: dict[str, Contestant] = {
        OURS: partial(our_work, setting, steps),
        GIVING_BACK: partial(our_work, setting, steps, keep=False),
    }
    contestants |= {name: partial(peer_work, name, setting, steps) for name in LOOPS}
    timings = measured(contestants, options)
    rows = [
        [name, rate(timing, steps * setting.batch), ratio(timings, name)]
        for name, timing in timings.items()
    ]
    show(
        f"The same network in every loop: {setting.name}, batch {setting.batch}",
        table(["loop", "images/s (best)", "reflow is faster by"], rows),
    )
    return {name: [spent / steps for spent in timing.seconds] for name, timing in timings.items()}


def peer_work(name: str, setting: Setting, steps: int) -> Work:
    return partial(LOOPS[name](setting.net(), setting.images(), setting.batch), steps)


def networks(size: str, options: argparse.Namespace) -> Any:
    """Measure forward and backward passes of networks of equal cost, and the machine's peak."""
    setting = EQUAL[size]
    done = {OURS: cost(setting.net(), setting.event)}
    with as_defined():
        defined = {OURS: cost(setting.net(), setting.event)}
    contestants: dict[str, Contestant] = {
        OURS: partial(our_passes, setting),
        GIVING_BACK: partial(our_passes, setting, keep=False),
    }
    for name, family in FAMILIES.items():
        shape = equal(family, setting.event, defined[OURS])
        done[name] = cost(family(setting.event, shape), setting.event)
        contestants[name] = partial(peer_passes, name, setting, shape)
    timings = measured(contestants | {name: partial(peak, name) for name in PEAKS}, options)
    fastest = PEAKS[PRODUCT][1] / timings[PRODUCT].median
    done, defined = ({GIVING_BACK: found[OURS]} | done | found for found in (done, defined))
    rows = [network_row(name, timings, done[name], defined[name], setting, fastest) for name in contestants]
    heads = ["network", "parameters", "GFLOP per image", "images/s (best)", "GFLOP/s"]
    show(
        f"Networks of equal cost, forward and backward: {size}, batch {setting.batch}",
        table([*heads, "share of the product", "reflow is faster by"], rows),
    )
    speeds = [[name, rate(timings[name], PEAKS[name][1] / 1e9)] for name in PEAKS]
    print("\n" + table(["the machine's own", "GFLOP/s (best)"], speeds))
    return {
        "done": {name: found._asdict() for name, found in done.items()},
        "defined": {name: found._asdict() for name, found in defined.items()},
        "seconds": {name: list(timing.seconds) for name, timing in timings.items()},
    }


def network_row(
    name: str,
    timings: Mapping[str, Timing],
    done: Cost,
    defined: Cost,
    setting: Setting,
    fastest: float,
) -> list[str]:
    """Return a network's line: GFLOP/s by its definition, the share of the peak by what it computes."""
    seconds = timings[name].median / setting.batch
    less = f" ({done.operations / 1e9:.3f} computed)" if done != defined else ""
    return [
        name,
        f"{defined.parameters / 1e6:.3f}M",
        f"{defined.operations / 1e9:.3f}{less}",
        rate(timings[name], setting.batch),
        f"{defined.operations / seconds / 1e9:.0f}",
        f"{100 * done.operations / seconds / fastest:.0f} %",
        ratio(timings, name),
    ]


def peer_passes(name: str, setting: Setting, shape: Shape) -> Work:
    torch.manual_seed(0)
    return passes(FAMILIES[name](setting.event, shape), setting)


def multiply() -> Work:
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    return lambda: a @ b


def convolve() -> Work:
    layer = nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(64, 64, 28, 28).to(memory_format=torch.channels_last)
    return partial(layer, x)


PRODUCT = f"product of {SIDE} x {SIDE} matrices"
PEAKS: dict[str, tuple[Contestant, float]] = {  # float32, with the operations of one
    PRODUCT: (multiply, 2.0 * SIDE**3),
    "3 x 3 convolution of 64 channels": (convolve, 2.0 * 9 * 64 * 64 * 64 * 28 * 28),
}


def peak(name: str) -> Work:
    return PEAKS[name][0]()


def parts(size: str, options: argparse.Namespace) -> Any:
    """Tell where our step's time goes."""
    setting = SETTINGS[size]
    torch.set_num_threads(options.threads)
    seconds = breakdown(our_work(setting, 1), max(3, options.rounds * STEPS[size] // 4))
    total = sum(seconds.values())
    rows = [[name, f"{1e3 * spent:.2f}", f"{100 * spent / total:.1f} %"] for name, spent in seconds.items()]
    show(f"Where our step's time goes: {setting.name}", table(["", "ms", "share"], rows))
    return seconds


def compiling(size: str, options: argparse.Namespace) -> Any:
    """Measure what torch.compile costs and adds."""
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        print("\ntorch.compile: left out, as this machine has no C++ compiler")
        return None
    setting, steps = SETTINGS[size], STEPS[size]
    timings = measured(
        {
            OURS: partial(our_work, setting, steps),
            "compiled": partial(our_work, setting, steps, compiled=True),
        },
        options,
    )
    plain, compiled = timings.values()
    cold = compiled.first - compiled.median
    back = paid_back(cold, plain.median / steps, compiled.median / steps)
    row = [
        f"{cold:.0f} s",
        f"{compiled.faster_than(plain):.2f} times",
        "never" if back is None else f"after {back} steps",
    ]
    show(
        f"torch.compile: {setting.name}",
        table(["compilation", "our step is faster by", "paid back"], [row]),
    )
    return {name: {"first": t.first, "seconds": list(t.seconds)} for name, t in timings.items()}


def measured(contestants: Mapping[str, Contestant], options: argparse.Namespace) -> dict[str, Timing]:
    return alternate(contestants, options.rounds, clock=options.clock, threads=options.threads)


def rate(timing: Timing, count: float) -> str:
    """Return how much is done a second: in the median round and, in brackets, in the best one."""
    return f"{count / timing.median:.0f} ({count / timing.best:.0f})"


def ratio(timings: Mapping[str, Timing], name: str) -> str:
    return "" if name == OURS else f"{timings[OURS].faster_than(timings[name]):.2f}"


def show(title: str, text: str) -> None:
    print(f"\n### {title}\n\n{text}", flush=True)


SECTIONS: dict[str, Callable[[str, argparse.Namespace], Any]] = {
    "loops": loops,
    "networks": networks,
    "parts": parts,
    "compile": compiling,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, help="these tables only")
    add("--sizes", nargs="+", choices=STEPS, default=list(STEPS), help="image sizes (default: all)")
    add("--threads", type=int, default=1, help="threads of torch (default 1)")
    add("--rounds", type=int, help="how often all take their turn (default 21, with --brief 3)")
    add("--brief", action="store_true", help="few rounds, and no torch.compile")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, for a busy machine")
    add("--json", type=Path, metavar="OUT", help="write the raw numbers here")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.brief else 21)
    options.only = options.only or [name for name in SECTIONS if name != "compile" or not options.brief]
    return options


def main() -> None:
    options = arguments()
    content: dict[str, Any] = {name: getattr(options, name) for name in ("rounds", "clock", "threads")}
    content |= {"versions": {name: version(name) for name in LIBRARIES}, "results": []}
    for name in options.only:
        for size in options.sizes:
            print(f"train: {name} {size}", file=sys.stderr, flush=True)
            found = SECTIONS[name](size, options)
            content["results"].append({"table": name, "size": size, "found": found})
            if options.json:
                options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # what was compiled before does not count
        main()
