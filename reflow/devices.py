"""Where the networks run."""

import torch

from reflow.errors import ReflowError, UsageError


def choose_device(name: str) -> torch.device:
    """Return the device of `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; auto takes the fastest there is.

    Raises ReflowError for a device that this machine or this build of torch does not have.
    """
    # The mathematics is in float32; cuDNN would round convolutions to TF32 and choose kernels at will.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": 1}
    if not torch.backends.mps.is_available():
        present["mps"] = 0
    if kind not in present or (number and not number.isdecimal()):
        raise UsageError(f"--device {name}: use auto, cpu, cuda, cuda:N or mps")
    if int(number or 0) >= present[kind]:
        raise ReflowError(f"--device {name}: this machine has {present[kind]} {kind} devices")
    return torch.device(name)
