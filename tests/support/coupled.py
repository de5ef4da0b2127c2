"""What tests ask of a directory of pairs."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from reflow.flow import Pair
from reflow.pairs.store import open_pairs, read_index

ROUNDING = 1e-5  # of float32, when sums run in another order at another batch size


def pairs_of(directory: Path) -> Pair:
    store = open_pairs(directory)
    return store.take(np.arange(len(store)))


def facts_of(directory: Path) -> dict[str, Any]:
    return read_index(directory / "pairs.json")[0].facts


def rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())
