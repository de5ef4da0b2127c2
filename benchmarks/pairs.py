"""What stored pairs cost to open and to draw from: seconds, memory, milliseconds per draw.

    python benchmarks/pairs.py [DIR] [--shard N]      (default: a temporary directory; removed at the end)

Writes 200,000 analytic pairs of 1x28x28 (the image is the noise halved and shifted; 1.25 GB), opens them
and draws batches of 256 by the coupling that reflow trains from. The pages of a memory map count as
resident though the system may drop them at any time, so anonymous memory is given beside it. Compared
with reading the same rows one by one through safetensors' `safe_open`.
"""

import argparse
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from reflow.artifacts import Header
from reflow.couplings import Mixture, Order, Stored
from reflow.flow import Pair
from reflow.pairs.store import PairStore, open_pairs, shard_name, write_index, write_shard
from reflow.randomness import noise

EVENT, COUNT, BATCH, DRAWS = (1, 28, 28), 200_000, 256, 2000


def write(directory: Path, size: int) -> None:
    directory.mkdir(parents=True)
    header = Header("pairs", "couple", 1, {}, {}, {"event": list(EVENT), "classes": None})
    starts = range(0, COUNT, size)
    shards = []
    for number, first in enumerate(starts):
        x0 = noise(0, "benchmark", range(first, min(first + size, COUNT)), EVENT)
        name = shard_name(number, len(starts))
        digest = write_shard(directory / name, Pair(x0, x0 / 2 + 0.1), header)
        shards.append({"file": name, "count": len(x0), "sha256": digest})
    write_index(directory, header, shards)


def memory() -> dict[str, float]:
    """Return the resident memory of this process in MB: all, anonymous, of mapped files; and its peak."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"resident": "VmRSS", "anonymous": "RssAnon", "mapped": "RssFile", "peak": "VmHWM"}
    return {name: int(lines[key].split()[0]) / 1024 for name, key in names.items()}


def report(what: str) -> None:
    print(f"{what:<40}" + "  ".join(f"{name} {size:.0f} MB" for name, size in memory().items()), flush=True)


def milliseconds(draw: Callable[[int], object], draws: int) -> str:
    times = []
    for number in range(draws):
        begin = time.perf_counter()
        draw(number)
        times.append(1e3 * (time.perf_counter() - begin))
    late = sorted(times[draws // 2 :])
    return (
        f"{statistics.median(late):.3f} ms a draw warm (95 %: {late[int(0.95 * len(late))]:.3f}), "
        f"first {times[0]:.1f}, mean of all {statistics.mean(times):.3f}"
    )


def by_safe_open(directory: Path, store: PairStore, order: Order) -> Callable[[int], object]:
    """Return a draw that reads the same rows one by one through safetensors."""
    files = [safe_open(path, "pt") for path in sorted(directory.glob("*.safetensors"))]  # type: ignore[no-untyped-call]
    slices = [[file.get_slice(name) for name in ("noise", "image")] for file in files]

    def draw(number: int) -> Pair:
        rows = order(number * BATCH, BATCH)
        shards = np.searchsorted(store.starts, rows, side="right") - 1
        found = [
            [part[row : row + 1] for part in slices[shard]]
            for shard, row in zip(shards.tolist(), (rows - store.starts[shards]).tolist(), strict=True)
        ]
        return Pair(*(torch.cat([parts[end] for parts in found]) for end in (0, 1)))

    return draw


def measure(directory: Path) -> None:
    size = sum(path.stat().st_size for path in directory.iterdir())
    rng = torch.Generator()
    report("before opening")
    begin, processor = time.perf_counter(), time.process_time()
    store = open_pairs(directory)
    spent, worked = time.perf_counter() - begin, time.process_time() - processor
    rate = f"{spent:.2f} s, {spent / size * 1e9:.2f} s/GB (processor: {worked / size * 1e9:.2f} s/GB)"
    print(f"opened and checked: {len(store.shards)} shards, {size / 1e9:.2f} GB in {rate}")
    report("after opening")
    stored = Stored(store, seed=0)
    print("coupling:", milliseconds(lambda number: stored.draw(number * BATCH, BATCH, rng), DRAWS))
    report(f"after {DRAWS} draws of {BATCH}")
    mixed = Mixture([Stored(store, seed=1), Stored(store, seed=2)], [4, 1])
    print("mixture of two:", milliseconds(lambda number: mixed.draw(number * BATCH, BATCH, rng), DRAWS))
    order = Order(COUNT, seed=0)
    print("order alone:", milliseconds(lambda number: order(number * BATCH, BATCH), DRAWS))
    row_by_row = by_safe_open(directory, store, order)
    same = row_by_row(3), stored.draw(3 * BATCH, BATCH, rng)
    assert all(torch.equal(a, b) for a, b in zip(same[0][:2], same[1][:2], strict=True))  # type: ignore[index]
    print("safe_open, row by row:", milliseconds(row_by_row, 200))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, help="a new directory for the pairs")
    parser.add_argument("--shard", type=int, default=2000, help="pairs per file")
    chosen = parser.parse_args()
    directory = chosen.directory or Path(tempfile.mkdtemp()) / "pairs"
    try:
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(directory, chosen.shard))
        writer.start()  # a process of its own, so that its memory is not counted
        writer.join()
        measure(directory)
    finally:
        shutil.rmtree(directory if chosen.directory else directory.parent)


if __name__ == "__main__":
    main()
