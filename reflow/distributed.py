"""Processes that work together under torchrun: who they are, and how they speak to one another.

Coupling needs to know no more than its rank: its processes share nothing but a directory, so none waits
for another. Training and evaluation join a group: gloo among CPUs, nccl among GPUs.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from reflow.errors import ReflowError, UsageError

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)  # others may wait while rank 0 writes a state or a preview


@dataclass(frozen=True)
class World:
    """This process among all (`rank` of `size`) and among those of its machine (`local_rank`)."""

    rank: int
    size: int
    local_rank: int

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return which of the numbers 0 to count - 1 are this process's, in the order of ranks."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)


ALONE = World(0, 1, 0)


def world() -> World:
    """Return what the environment of this process says; alone without torchrun."""
    rank, size, local = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return World(int(rank or 0), int(size or 1), int(local or 0))


def restarts() -> int:
    """Return how often torchrun has started the processes of this job again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the group of processes that torchrun started, until the block ends; alone, do nothing.

    A restarted group meets under a new prefix: the store outlives killed workers and would hand out
    their addresses.
    """
    here = world()
    if here.size == 1:
        yield here
        return
    hosts = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and here.leads
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if not port:
        raise UsageError("torchrun --master-port 0 tells nobody the port; give a number, or --standalone")
    store = TCPStore(address, port, is_master=hosts, wait_for_workers=False, timeout=PATIENCE)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"try{restarts()}", store),
        rank=here.rank,
        world_size=here.size,
        timeout=PATIENCE,
    )
    try:
        yield here
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _in_touch() -> Iterator[None]:
    """Turn the loss of another process, which has its own message, into one line."""
    try:
        yield
    except RuntimeError as error:
        raise ReflowError("lost another process; see that process's error above") from error


def agree(value: T, world: World) -> T:
    """Return the value that rank 0 has, on every process."""
    if world.size == 1:
        return value
    box: list[Any] = [value]
    with _in_touch():
        dist.broadcast_object_list(box)
    return box[0]  # type: ignore[no-any-return]


def total(tensor: Tensor, world: World) -> Tensor:
    """Return the sum of a tensor over all processes."""
    if world.size > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


class Shared(Mapping[str, Tensor]):
    """The tensors that rank 0 has, by name and on the CPU, in every process.

    Each is sent when it is asked for, so that no process but the first holds all of them; all processes
    ask for the same ones in the same order.
    """

    def __init__(self, tensors: Mapping[str, Tensor], world: World) -> None:
        self.tensors, self.world = tensors, world
        self.kinds = agree({name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}, world)

    def __getitem__(self, name: str) -> Tensor:
        shape, dtype = self.kinds[name]
        copy = (
            self.tensors[name].cpu().contiguous() if self.world.leads else torch.empty(shape, dtype=dtype)
        )
        if self.world.size > 1:
            dist.broadcast(copy, src=0)
        return copy

    def __iter__(self) -> Iterator[str]:
        return iter(self.kinds)

    def __len__(self) -> int:
        return len(self.kinds)


def gathered(tensor: Tensor, world: World) -> list[Tensor] | None:
    """Return the tensor of every process in the order of ranks, on rank 0 and on the CPU; None elsewhere.

    They may differ in length, and in nothing else.
    """
    if world.size == 1:
        return [tensor.cpu()]
    mine = tensor.cpu().contiguous()
    lengths: list[Any] | None = [None] * world.size if world.leads else None
    dist.gather_object(len(mine), lengths)
    if lengths is None:
        if len(mine):
            dist.send(mine, 0)
        return None
    parts = [mine, *(mine.new_empty((length, *mine.shape[1:])) for length in lengths[1:])]
    for rank, part in enumerate(parts):
        if rank and len(part):
            dist.recv(part, rank)
    return parts


class Vote:
    """What any process asked for, known to all at the same step although none waits for another.

    A vote is counted while the next step runs: among several processes the answer is that of the step
    before. Alone it is what was asked.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.pending: tuple[dist.Work, Tensor] | None = None

    def cast(self, *wishes: int) -> list[int]:
        """Ask for something (each wish 0 or more) and return the largest wishes of the last vote."""
        if self.world.size == 1:
            return list(wishes)
        before = self.counted()
        ballot = torch.tensor(wishes)
        work = dist.all_reduce(ballot, dist.ReduceOp.MAX, async_op=True)
        assert work is not None
        self.pending = work, ballot
        return before or [0] * len(wishes)

    def counted(self) -> list[int] | None:
        """Return the result of the vote that is under way, if there is one."""
        if self.pending is None:
            return None
        work, ballot = self.pending
        with _in_touch():
            work.wait()
        self.pending = None
        return [int(wish) for wish in ballot]


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

    Raises UsageError when the text is not a part, or both are given.
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
