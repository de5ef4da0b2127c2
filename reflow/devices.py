"""Where the networks run, and tensors on their way there."""

import ctypes
import platform

import torch
from torch import Tensor

from reflow.errors import ReflowError, UsageError

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


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on the device, without waiting for the copy where that is possible."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
