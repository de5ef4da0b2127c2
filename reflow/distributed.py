"""What torchrun tells a process: its rank, and how many there are.

Coupling needs no more: its processes share nothing but a directory, so none waits for another.
"""

import os
from dataclasses import dataclass

from reflow.errors import UsageError


@dataclass(frozen=True)
class World:
    """This process among all (`rank` of `size`) and among those of its machine (`local_rank`)."""

    rank: int
    size: int
    local_rank: int


def world() -> World:
    """Return what the environment of this process says; alone without torchrun."""
    rank, size, local = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return World(int(rank or 0), int(size or 1), int(local or 0))


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, counted from 1, of a job that is split."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def owns(self, item: int) -> bool:
        """Return whether an item, counted from 0, belongs to this part."""
        return item % self.count == self.number - 1


def part_of(text: str | None) -> Part | None:
    """Return the part that `--part I/N` or torchrun assigns to this process, or None for all of it.

    Raises UsageError when the text is no part, or both are given.
    """
    here = world()
    if text is None:
        return Part(here.rank + 1, here.size) if here.size > 1 else None
    if here.size > 1:
        raise UsageError("--part is for jobs without torchrun, which splits the work itself")
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--part {text}: write it as I/N, such as 1/8, with I from 1 to N")
    return Part(int(number), int(count))
