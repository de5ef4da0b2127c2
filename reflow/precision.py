"""Precision: networks in 16 bits or TF32, and fields without what training wraps around them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reflow.errors import ReflowError
from reflow.flow import VelocityField


@dataclass(frozen=True)
class Autocast:
    """A field whose network is computed in 16 bits by autocast."""

    field: VelocityField
    device: str
    dtype: torch.dtype

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None, *end_time: Tensor) -> Tensor:
        """Return v(x, t) in float32; end_time: of fields that know average velocities."""
        with torch.autocast(self.device, self.dtype):
            return self.field(x, t, label, *end_time).float()


def in_precision(field: VelocityField, precision: str, device: torch.device) -> VelocityField:
    """Return the field with its network computed in this precision (autocast) and float32 outside.

    Raises ReflowError for a precision that the device lacks or only emulates, many times slower.
    """
    if precision == "float32":
        return field
    if precision == "tf32":
        if device.type != "cuda":
            raise ReflowError("precision tf32 is for NVIDIA GPUs; here use float32")
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        return field
    dtype = getattr(torch, precision)
    if device.type == "cpu" and dtype == torch.float16:
        raise ReflowError("precision float16 is for GPUs; on a CPU use bfloat16 or float32")
    slow = {
        "cpu": lambda: not torch.cpu._is_avx512_bf16_supported(),
        "cuda": lambda: not torch.cuda.is_bf16_supported(including_emulation=False),
    }
    if dtype == torch.bfloat16 and device.type in slow and slow[device.type]():
        raise ReflowError(
            f"precision {precision}: this {device.type} device only emulates it, many times slower; "
            "leave it at float32"
        )
    return Autocast(field, device.type, dtype)


def bare(field: VelocityField) -> VelocityField:
    """Return what a field computes, in float32 and without what training wraps around it.

    Neither DDP nor compiled code knows forward-mode derivatives.
    """
    while isinstance(field, Autocast | DistributedDataParallel):
        field = field.field if isinstance(field, Autocast) else field.module
    return field.forward if isinstance(field, nn.Module) else field
