"""What an option needs from elsewhere: a package of an extra, and a file of weights that the user has.

`option` is what asks for it, as the user gave it, such as `--features weights.pth`: messages begin with it.
"""

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from reflow.errors import ReflowError


def require_installed(package: str, extra: str, option: str) -> None:
    """Refuse an option whose package is not installed, without importing it."""
    if importlib.util.find_spec(package) is None:
        raise ReflowError(f"{option}: {_named(package)} is not installed; pip install 'reflow[{extra}]'")


@contextlib.contextmanager
def optional_package(package: str, extra: str, option: str) -> Iterator[None]:
    """Import a package and build what is needed of it, in this block and without its warnings.

    Raises ReflowError where it is not installed, or does not work with the torch that is.
    """
    require_installed(package, extra, option)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its use of what torchvision has deprecated
            yield
    except Exception as error:  # torchvision raises RuntimeError beside another torch
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ReflowError(
            f"{option}: {_named(package)} does not work ({reason}); reinstall 'reflow[{extra}]', "
            f"and any torchvision as it was built for torch {torch.__version__}"
        ) from error


def content_of(path: Path, option: str, remedy: str) -> bytes:
    """Return the bytes of a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReflowError(f"{option} cannot be read ({error.strerror or error}); {remedy}") from error


def weights_in(content: bytes, path: Path, option: str, remedy: str) -> Mapping[str, Tensor]:
    """Return the tensors in the content of a file by name, without running any code in it.

    It is what torch saves, or safetensors by the ending of its name; of anything but a state dict nothing
    is returned.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(content)
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # what is not a file of weights fails in many ways
        raise ReflowError(f"{option} is not a file of weights alone; {remedy}") from error
    return found if isinstance(found, Mapping) else {}


def _named(package: str) -> str:
    """Return what a package is called where it is installed from."""
    return package.replace("_", "-")
