"""One network in many processes: all of it in each of them, or a share of it in each.

Both layouts answer the same questions, so that a fit need not know which it has: what to call, how
gradients come together, what is held here, and what a whole tensor is.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reflow.distributed import World
from reflow.errors import ReflowError
from reflow.models.preconditioning import Preconditioned


class Layout(Protocol):
    """A network whose gradients become means over all processes."""

    field: nn.Module  # what training calls

    def unsynced(self) -> contextlib.AbstractContextManager[None]:
        """Return a block in which gradients are only added up in this process."""
        ...

    def held(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return what this process holds of weights or their averages."""
        ...

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a weight, moment, average or norm in full; every process must ask."""
        ...

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors in full, to be written by rank 0; every process must ask."""
        ...

    def put(self, tensor: Tensor, whole: Tensor) -> None:
        """Set a weight, moment or average to what it is in full."""
        ...


class Replicated:
    """All of the network in every process (DDP); alone it is the network itself."""

    def __init__(self, net: nn.Module, device: torch.device, world: World) -> None:
        self.field, self.copies = net, None
        if world.size > 1:
            devices = [device] if device.type == "cuda" else None
            self.copies = DistributedDataParallel(net, device_ids=devices, gradient_as_bucket_view=True)
            self.field = self.copies

    def unsynced(self) -> contextlib.AbstractContextManager[None]:
        """Return a block in which gradients are only added up in this process."""
        return contextlib.nullcontext() if self.copies is None else self.copies.no_sync()

    def held(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return the tensors."""
        return list(tensors)

    def whole(self, tensor: Tensor) -> Tensor:
        """Return the tensor."""
        return tensor

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors."""
        return dict(tensors)

    def put(self, tensor: Tensor, whole: Tensor) -> None:
        """Copy the values."""
        tensor.copy_(whole)


class Sharded:
    """A share of every weight, moment and average in each process (FSDP2), for what fits into none.

    Each unit of the network is gathered when it is called and given up again.
    """

    def __init__(self, net: Preconditioned, device: torch.device, world: World) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if world.size == 1:
            raise ReflowError("sharded = true is for several processes; run the command under torchrun")
        self.leads = world.leads
        net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # all that it takes
        self.mesh = init_device_mesh(device.type, (world.size,))
        for unit in net.units():
            fully_shard(unit, mesh=self.mesh)
        self.field: Any = fully_shard(net, mesh=self.mesh)

    @contextlib.contextmanager
    def unsynced(self) -> Iterator[None]:
        """Keep gradients in this process until the block ends."""
        self.field.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.field.set_requires_gradient_sync(True)

    def held(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return the shares of this process."""
        return [tensor.to_local() for tensor in tensors]  # type: ignore[attr-defined]

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a tensor gathered from all processes."""
        full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
        return full

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors on the CPU of rank 0 and none elsewhere: no device has room for all."""
        held = {}
        for name, tensor in tensors.items():
            whole = self.whole(tensor)
            if self.leads:
                held[name] = whole.cpu()
        return held

    def put(self, tensor: Tensor, whole: Tensor) -> None:
        """Copy the share of this process."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(tensor, DTensor)
        share = distribute_tensor(whole.to(tensor.device), self.mesh, tensor.placements)
        tensor.copy_(share)
