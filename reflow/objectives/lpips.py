"""The perceptual distance: how differently a network trained on photographs sees two images.

LPIPS (Zhang et al. 2018, arXiv:1801.03924) on VGG-16, by the package `lpips`, which is an extra and
imported here only when it is used. The weights of VGG-16 are a file of the user's; nothing is downloaded.
Images are (B, C, H, W) in [-1, 1] with one channel or three.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from reflow.errors import ReflowError
from reflow.extras import content_of, optional_package, weights_in
from reflow.recipes.training import PairFitSettings

SIZE = 224  # pixels, of the images that VGG-16 was trained on
PARENT = "perceptual-weights"  # the role of the weights among a model's parents
REMEDY = "give the state dict of torchvision's VGG-16, as .pth or .safetensors"


@dataclass(frozen=True)
class Perceptual:
    """A distance of images, by a network that takes two of (B, 3, H, W) to (B, 1, 1, 1).

    Smaller images are enlarged to `size` pixels. digest: SHA-256 of the file of the weights.
    """

    network: Callable[[Tensor, Tensor], Tensor]
    size: int
    digest: str

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each image of a from that of b, (B,)."""
        return self.network(*(enlarged(x, self.size).expand(-1, 3, -1, -1) for x in (a, b))).flatten()


def enlarged(x: Tensor, size: int) -> Tensor:
    """Return images whose shorter side has at least `size` pixels, by bilinear interpolation.

    It is two products of matrices, because the gradient of torch's own differs from run to run on GPUs.
    """
    sides = x.shape[-2:]
    factor = max(1.0, size / min(sides))
    if factor == 1:
        return x
    down, across = (
        functional.interpolate(
            torch.eye(side, dtype=x.dtype, device=x.device)[None], round(factor * side), mode="linear"
        )[0]
        for side in sides
    )
    return down.T @ x @ across


def load_perceptual(
    path: Path | None, settings: PairFitSettings, event: tuple[int, ...], device: torch.device
) -> Perceptual | None:
    """Return the perceptual distance by the weights in a file; none without a file.

    Raises ReflowError when there is a size but no file, events are not images, `lpips` is missing or does
    not work, or the file does not hold the weights of a VGG-16.
    """
    size = settings.perceptual_size
    if path is None:
        if size is not None:
            raise ReflowError(
                f"perceptual_size = {size} needs --perceptual FILE; give that, or set it to none"
            )
        return None
    if len(event) != 3 or event[0] not in (1, 3):
        raise ReflowError(
            f"--perceptual compares grey or RGB images, and this model works on {event}; leave it out"
        )
    with optional_package("lpips", "perceptual", "--perceptual"):
        import lpips

        network: nn.Module = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    option = f"--perceptual {path}"
    content = content_of(path, option, REMEDY)
    features = network.get_submodule("net")
    found = weights_in(content, path, option, REMEDY)
    features.load_state_dict(_matching(found, features.state_dict(), option))
    network = network.to(device).eval().requires_grad_(False)
    return Perceptual(network, size or SIZE, hashlib.sha256(content).hexdigest())


def parents_of(perceptual: Perceptual | None) -> dict[str, str]:
    """Return what goes to the parents of a model that was trained with it."""
    return {} if perceptual is None else {PARENT: perceptual.digest}


def _matching(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], option: str) -> dict[str, Tensor]:
    """Return the wanted tensors by their names in lpips: `slice2.5.bias` for `features.5.bias`."""
    chosen = {}
    for own, tensor in wanted.items():
        name = f"features.{own.partition('.')[2]}"
        shape = tuple(getattr(found.get(name), "shape", ()))
        if shape != tuple(tensor.shape):
            what = f"has {name} of shape {shape}" if name in found else f"has no {name}"
            raise ReflowError(f"{option} is not a VGG-16: it {what}; {REMEDY}")
        chosen[own] = found[name]
    return chosen
