"""A job: where a stage writes, what it runs on, and which trackers show it. Nothing here imports torch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """What the command line says of a stage beside its inputs and settings.

    device: auto, cpu, cuda, cuda:N or mps; compiled: None compiles on NVIDIA GPUs; trackers: names of
    experiment trackers; fresh: discard what stands in `out`.
    """

    out: Path
    device: str = "auto"
    compiled: bool | None = None
    trackers: tuple[str, ...] = ()
    fresh: bool = False
