"""What a folder of images costs: decoding once, opening again, random batches, memory.

    python benchmarks/data.py [FOLDER] [--size S] [--images N] [--pixels P] [--format png|jpg] [--rounds R]

Without a folder, writes N images of P x P pixels into a temporary one (removed at the end). Decodes them
into a cache with one and with all processors in turn, opens it again, and draws random batches of 128
from it and from a copy in memory. Medians of the rounds, and the best one, for busy machines. Each
decoding runs in a process of its own; memory is what its anonymous memory grew by, without mapped pages.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from reflow.data import DataSet, decoding, open_data
from reflow.data.workers import processors
from reflow.recipes.recipe import DataSettings

BATCH, DRAWS = 128, 200


def write(path: Path, count: int, pixels: int, suffix: str) -> None:
    """Write smooth images with a little noise: files of the size that photographs have."""
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    for row in range(count):
        coarse = rng.integers(0, 256, (max(pixels // 8, 1),) * 2 + (3,), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((pixels, pixels), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth, np.int16) + rng.integers(-4, 5, (pixels, pixels, 3), dtype=np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path / f"{row:06}.{suffix}")


def anonymous() -> int:
    """Return the anonymous memory of this process in kB."""
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0])


def decode(settings: DataSettings, workers: int, place: str) -> tuple[float, float, float]:
    """Return images per second of decoding, seconds of opening again, and the MB that decoding took."""
    os.environ["REFLOW_CACHE"] = place
    decoding.processors = lambda: workers  # type: ignore[attr-defined]
    before, begin = anonymous(), time.perf_counter()
    count = len(open_data(settings, 0))
    decoded, after = time.perf_counter() - begin, anonymous()
    begin = time.perf_counter()
    open_data(settings, 0)
    return count / decoded, time.perf_counter() - begin, (after - before) / 1024


def rate(data: DataSet, seed: int) -> float:
    """Return the images per second of random batches."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(data), size=(DRAWS, BATCH))
    begin = time.perf_counter()
    for batch in rows:
        data.raw(batch)
    return DRAWS * BATCH / (time.perf_counter() - begin)


def line(what: str, found: list[float], unit: str, best: Callable[[list[float]], float] = max) -> None:
    figures = f"{statistics.median(found):12,.2f} {unit} (best {best(found):,.2f})"
    print(f"{what:<44}{figures}", flush=True)


def measure_decoding(settings: DataSettings, rounds: int, place: Path) -> None:
    rates: dict[int, list[float]] = {}
    again: list[float] = []
    memory: dict[int, list[float]] = {}
    context = multiprocessing.get_context("spawn")
    for turn in range(rounds):
        for workers in sorted({1, processors()}):
            with ProcessPoolExecutor(1, context) as alone:
                once = alone.submit(decode, settings, workers, f"{place / f'{turn}-{workers}'}").result()
            rates.setdefault(workers, []).append(once[0])
            memory.setdefault(workers, []).append(once[2])
            again.append(once[1])
            shutil.rmtree(place / f"{turn}-{workers}")
    for workers, found in rates.items():
        line(f"decode, {workers} of {processors()} processors", found, "images/s")
        line("    memory that it took", memory[workers], "MB", min)
    line("open again", again, "s", min)


def measure_drawing(settings: DataSettings, rounds: int, place: Path) -> None:
    os.environ["REFLOW_CACHE"] = f"{place}"
    data = open_data(settings, 0)
    copy = replace(data, stored=np.array(data.stored))
    rates: dict[str, list[float]] = {"cache": [], "memory": []}
    for turn in range(3 * rounds):
        for name, source in (("cache", data), ("memory", copy)):
            rates[name].append(rate(source, turn))
    for name, found in rates.items():
        line(f"random batches of {BATCH} from {name}", found, "images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--format", choices=("png", "jpg"), default="png")
    parser.add_argument("--size", type=int, help="data.size")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    place = Path(tempfile.mkdtemp())
    try:
        source = chosen.folder or place / "images"
        if chosen.folder is None:
            write(source, chosen.images, chosen.pixels, chosen.format)
        settings = DataSettings(source=f"{source}", size=chosen.size)
        measure_decoding(settings, chosen.rounds, place)
        measure_drawing(settings, chosen.rounds, place / "cache")
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
