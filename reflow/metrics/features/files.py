"""Networks that users bring as files, by the ending of their name.

TorchScript and ONNX networks are given images as they are. A TorchScript file is a program: no Python code
in it is run, but it can do what torch can, so use only files from people you trust.
"""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from reflow.errors import ReflowError
from reflow.extras import content_of, optional_package
from reflow.metrics.features.extractor import FileExtractor, file_extractor
from reflow.metrics.features.inception import inception

KINDS = "a TorchScript file (.pt), an ONNX file (.onnx) or the weights of FID's Inception network (.pth)"

Opener = Callable[[Path, bytes, tuple[int, ...], torch.device], FileExtractor]


def open_extractor(path: Path, event: tuple[int, ...], device: torch.device) -> FileExtractor:
    """Return the features of the network in a file, for samples of this shape.

    Raises ReflowError for a file that cannot be read, is of no known kind, or does not give features.
    """
    opener = OPENERS.get(path.suffix.lower())
    if opener is None:
        raise ReflowError(f"--features {path} is of no known kind; give {KINDS}")
    return opener(path, content_of(path, f"--features {path}", f"give {KINDS}"), event, device)


def torchscript(path: Path, content: bytes, event: tuple[int, ...], device: torch.device) -> FileExtractor:
    """Return the features of a TorchScript module: it is given images as they are and gives (n, D)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as such
        try:
            module = torch.jit.load(io.BytesIO(content), map_location=device).eval()
        except Exception as error:  # what is not TorchScript fails in many ways
            raise ReflowError(f"--features {path} is not TorchScript; save it by torch.jit.save") from error
    return file_extractor("torchscript", path, content, lambda images: module(images.to(device)), event)


def onnx(path: Path, content: bytes, event: tuple[int, ...], device: torch.device) -> FileExtractor:  # noqa: ARG001 (on the CPU)
    """Return the features of an ONNX graph: its input are images as they are, its first output (n, D)."""
    with optional_package("onnxruntime", "onnx", f"--features {path}"):
        import onnxruntime
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors are of its own kinds
        raise ReflowError(f"--features {path} is not an ONNX graph; export it again") from error
    entry = session.get_inputs()[0].name
    return file_extractor(
        "onnx", path, content, lambda images: session.run(None, {entry: images.numpy()})[0], event
    )


OPENERS: dict[str, Opener] = {".pt": torchscript, ".onnx": onnx, ".pth": inception}
