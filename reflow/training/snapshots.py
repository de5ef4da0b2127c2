"""Snapshots of the averages of a training run, and the weights of other widths out of them.

A snapshot is an artifact `averages-<step>.safetensors`: for each width tracked all parameters, float32,
named `<width>.<parameter>`. Its header is that of the model in training with the facts `step` and `widths`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from reflow.artifacts import AVERAGES, Header, damaged, read_artifact, read_header, write_artifact
from reflow.artifacts.facts import model_facts
from reflow.artifacts.files import writing
from reflow.errors import ReflowError
from reflow.training.averages import WIDEST, WIDTHS, Profile, gamma_of


@dataclass(frozen=True)
class Snapshot:
    """A file of averages, read up to its header."""

    path: Path
    header: Header
    step: int
    widths: tuple[float, ...]

    def profiles(self) -> list[Profile]:
        """Return the profile of each width."""
        return [Profile(gamma_of(width), self.step) for width in self.widths]

    def model_header(self) -> Header:
        """Return the header of the model in training."""
        facts = {key: value for key, value in self.header.facts.items() if key not in ("step", "widths")}
        return replace(self.header, kind="model", facts=facts)


def announcement(header: Header, left: int) -> str:
    """Return how much disk space the snapshots that are left will take, and how to have none."""
    size = left * len(WIDTHS) * 4 * model_facts(header.facts).parameters  # bytes, float32
    return (
        f"{left} snapshots of averages will take {size / 1e6:.3g} MB of disk space "
        f"(--set {header.stage}.snapshots=0 stores none)"
    )


def write_snapshot(
    out: Path, header: Header, step: int, averages: Mapping[float, Mapping[str, Tensor]]
) -> None:
    """Write the averages after `step` steps, by width and parameter; the header is the model's."""
    tensors = {
        f"{width:g}.{name}": tensor.float()
        for width, average in averages.items()
        for name, tensor in average.items()
    }
    facts = header.facts | {"step": step, "widths": sorted(averages)}
    path = out / AVERAGES.replace("*", f"{step:08}")
    write_artifact(path, tensors, replace(header, kind="averages", facts=facts))


def snapshots(out: Path) -> list[Snapshot]:
    """Return the snapshots in a directory in the order of their steps.

    Raises ReflowError when there are none, one is damaged or they come from different training runs.
    """
    if not out.is_dir():
        raise ReflowError(f"{out} is not a directory; give that of a training run")
    found = sorted((_open(path) for path in out.glob(AVERAGES)), key=lambda snapshot: snapshot.step)
    if not found:
        raise ReflowError(
            f"{out} holds no snapshots of averages; train with snapshots above 0 to have some"
        )
    for snapshot in found:
        if _training(snapshot.header) != _training(found[-1].header):
            raise ReflowError(
                f"{snapshot.path} and {found[-1].path} come from different training runs; "
                "remove what does not belong there"
            )
    return found


def discard_after(out: Path, step: int) -> None:
    """Remove the snapshots of steps above `step`, which a training run resumed there takes again."""
    for path in out.glob(AVERAGES):
        number = path.stem.rpartition("-")[2]
        if number.isdecimal() and int(number) > step:
            with writing(path):
                path.unlink()


def weighted_sum(
    found: list[Snapshot], factors: NDArray[Any], progress: Callable[[int], None]
) -> dict[str, Tensor]:
    """Return the sum of all averages times their factors, by name of the parameter, float32.

    factors: of all widths of the first snapshot, then of the second, ...; snapshots with zeros alone
    are not read. Summed in float64; one snapshot is in memory at a time. `progress` is told how many
    snapshots are done.
    """
    total: dict[str, Tensor] = {}
    left = iter(factors.tolist())
    for done, snapshot in enumerate(found, 1):
        shares = {width: next(left) for width in snapshot.widths}
        if any(shares.values()):
            _add(total, snapshot, shares)
        progress(done)
    return {name: tensor.float() for name, tensor in total.items()}


def _add(total: dict[str, Tensor], snapshot: Snapshot, shares: dict[float, float]) -> None:
    _, tensors = read_artifact(snapshot.path, "averages")
    for width, share in shares.items():
        prefix = f"{width:g}."
        own = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
        if not total:
            total |= {name: torch.zeros_like(value, dtype=torch.float64) for name, value in own.items()}
        if not own or _shapes(own) != _shapes(total):
            raise damaged(snapshot.path, f"its parameters of width {width:g} are not those of the network")
        for name, value in own.items():
            total[name].add_(value, alpha=share)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _open(path: Path) -> Snapshot:
    header = read_header(path, "averages")
    try:
        step, widths = int(header.facts["step"]), tuple(float(width) for width in header.facts["widths"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"its facts are not those of averages ({error})") from error
    if step < 1 or not widths or not all(0 < width < WIDEST for width in widths):
        raise damaged(path, f"there is no average of widths {widths} at step {step}")
    return Snapshot(path, header, step, widths)


def _training(header: Header) -> tuple[Any, ...]:
    """Return what all snapshots of a training run share; it may have been continued to more steps."""
    section = header.recipe.get(header.stage, {}) | {"steps": None}
    return header.rectification, header.parents, header.recipe | {header.stage: section}
