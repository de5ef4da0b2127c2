"""Where the networks run."""

import ctypes
import platform
from dataclasses import dataclass

import torch
from torch import Tensor

from reflow.errors import ReflowError, UsageError
from reflow.flow import VelocityField

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt, in bytes


def choose_device(name: str, rank: int = 0) -> torch.device:
    """Return the device of `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; auto takes the fastest there is.

    Processes of one machine share its GPUs by `rank`, unless a number is given.

    Raises ReflowError for a device that this machine or this build of torch does not have.
    """
    # The mathematics is in float32; cuDNN would round convolutions to TF32 and choose kernels at will.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    device = _device(name, rank)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def keep_freed_memory() -> None:
    """Keep memory that tensors free on the CPU in this process, where its C library is glibc.

    By default large blocks go back to the system at once, and cost a page fault per 4 kB when the next
    tensor asks for them: a sixth of a training step on images of 28 x 28 pixels.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _device(name: str, rank: int) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", rank % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": 1}
    if not torch.backends.mps.is_available():
        present["mps"] = 0
    if kind not in present or (number and not number.isdecimal()):
        raise UsageError(f"--device {name}: use auto, cpu, cuda, cuda:N or mps")
    if int(number or 0) >= present[kind]:
        raise ReflowError(f"--device {name}: this machine has {present[kind]} {kind} devices; leave it out")
    if name == "cuda":
        return torch.device("cuda", rank % torch.cuda.device_count())
    return torch.device(name)


def most_precise(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class Rounded:
    """A field whose network is computed in 16 bits by autocast."""

    field: VelocityField
    device: str
    dtype: torch.dtype

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None, *until: Tensor) -> Tensor:
        """Return v(x, t) in float32; until: of fields that know average velocities."""
        with torch.autocast(self.device, self.dtype):
            return self.field(x, t, label, *until).float()


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
    return Rounded(field, device.type, dtype)
