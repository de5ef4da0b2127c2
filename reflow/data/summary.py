"""What is said of a source when it is opened, in one line: what was read, how, and what was left out."""

from collections.abc import Mapping

import numpy as np

from reflow.data.dataset import DataSet
from reflow.data.formats import listing
from reflow.data.images import ALPHA, DARK, FAINT, PROFILE
from reflow.data.names import by_ending

MODES = {1: "grey", 3: "rgb"}
REMARKS = {
    ALPHA: "{} with transparency laid over white",
    PROFILE: "colour profiles of {} not applied",
    DARK: f"{{}} of 16 bits without a level above {FAINT}: scale them if they hold fewer bits",
}


def summary(origin: str, data: DataSet, seen: Mapping[str, int], left_out: Mapping[str, int]) -> str:
    """Return the line about a source; seen: in how many images something was noticed."""
    parts = [_samples(data), _classes(data)]
    parts += [remark.format(f"{seen[what]:,}") for what, remark in REMARKS.items() if seen.get(what)]
    if total := sum(left_out.values()):
        parts.append(f"{total:,} other files left out ({by_ending(left_out)})")
    return f"{origin}: {'; '.join(parts)}"


def _samples(data: DataSet) -> str:
    if len(data.event) == 1:
        return f"{len(data):,} vectors of {data.event[0]:,} numbers"
    channels, height, width = data.event
    return f"{len(data):,} images of {width} x {height}, {MODES.get(channels, channels)}"


def _classes(data: DataSet) -> str:
    if data.labels is None:
        return "no classes"
    counts = np.bincount(data.labels, minlength=len(data.class_names))
    pairs = zip(data.class_names, counts.tolist(), strict=True)
    names = listing([f"{name} {count:,}" for name, count in pairs])
    return f"{len(data.class_names)} class{'es' * (len(data.class_names) != 1)} ({names})"
