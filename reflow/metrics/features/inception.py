"""The Inception network of 2015, on whose features the Frechet distance is FID, and the kernel one KID.

The network is torch-fidelity's, an extra that needs a torchvision that fits torch; it resizes as
TensorFlow 1 did. The weights are a file of the user's, known by its SHA-256 and read without running code
in it. Images are rounded to 8 bits first, and grey ones repeated in three channels.
"""

import hashlib
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from reflow.errors import ReflowError
from reflow.extras import optional_package, weights_in
from reflow.metrics.features.extractor import INCEPTION, FileExtractor, Preparation, file_extractor

PUBLISHED = "6726825d"  # first digits of the SHA-256, which torch-fidelity has in the file's name
LAYER = "2048"
PREPARATION = Preparation("8 bits", "299 x 299, bilinear as in TensorFlow 1 (torch-fidelity)")
REMEDY = "give weights-inception-2015-12-05-6726825d.pth of torch-fidelity"


def inception(path: Path, content: bytes, event: tuple[int, ...], device: torch.device) -> FileExtractor:
    """Return the extractor whose distances are FID and KID.

    Raises ReflowError for other weights, for events that are not images, or without torch-fidelity.
    """
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(PUBLISHED):
        raise ReflowError(f"--features {path} has SHA-256 {digest[:8]}..., not those of FID; {REMEDY}")
    if len(event) != 3 or event[0] not in (1, 3):
        raise ReflowError(f"--features {path} is for grey or RGB images, and the samples are {event}")
    network = _network(content, path).to(device)

    def features(images: Tensor) -> Tensor:
        pixels = as_bytes(images).expand(-1, 3, -1, -1).to(device)
        found: Tensor = network(pixels)[0]
        return found

    return file_extractor(INCEPTION, path, content, features, event, PREPARATION)


def as_bytes(images: Tensor) -> Tensor:
    """Return images in [-1, 1] rounded to 8 bits, as files of pictures have them."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _network(content: bytes, path: Path) -> nn.Module:
    """Return the network with the weights in a file.

    torch-fidelity would unpickle the file; what it is given is written again from the tensors alone.
    """
    option = f"--features {path}"
    with optional_package("torch_fidelity", "inception", option):
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    tensors = io.BytesIO()
    torch.save(weights_in(content, path, option, REMEDY), tensors)
    tensors.seek(0)
    network: nn.Module = FeatureExtractorInceptionV3(
        INCEPTION, [LAYER], feature_extractor_weights_path=tensors
    )
    return network
