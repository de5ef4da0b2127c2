"""Our side of benchmarks/train.py: the networks, the data and the training step of `reflow train`."""

import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reflow.couplings import Independent
from reflow.data.dataset import DataSet
from reflow.data.digits import digits
from reflow.devices import keep_freed_memory
from reflow.models import build
from reflow.models.preconditioning import Preconditioned
from reflow.objectives import objective_of
from reflow.recipes.network import UnetSettings
from reflow.recipes.training import VelocityFitSettings
from reflow.training.fit import Fit

Work = Callable[[], object]
Loop = Callable[[int], object]  # runs so many steps

CPU = torch.device("cpu")


class Setting(NamedTuple):
    """A network of ours and what it is trained on."""

    name: str
    event: tuple[int, int, int]
    model: UnetSettings
    batch: int = 128

    def data(self) -> DataSet:
        """Return the digits where they fit, else 2,000 images of noise: the time does not depend on it."""
        if self.event == digits().event:
            return digits().without_labels()
        rng = np.random.default_rng(0)
        return DataSet(rng.integers(0, 256, (2000, *self.event), dtype=np.uint8))

    def images(self) -> Tensor:
        """Return the data as peers take it: floats in [-1, 1]."""
        return torch.from_numpy(self.data().values).float() / 127.5 - 1

    def net(self) -> Preconditioned:
        """Return the network with weights that no longer start at zero."""
        torch.manual_seed(0)
        net = build(self.model, self.event, None)
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(0.02 * torch.randn_like(weight))
        return net


def unet(channels: int, *multipliers: int) -> UnetSettings:
    return UnetSettings(kind="unet", channels=channels, multipliers=multipliers)


SETTINGS = {
    "8x8": Setting("recipe digits, 8x8", (1, 8, 8), unet(32, 1, 2)),
    "28x28": Setting("1.05M parameters, 28x28", (1, 28, 28), unet(32, 1, 2, 2)),
}
EQUAL = {  # for networks of equal cost: the shape of torchcfm's MNIST example
    "8x8": Setting("8x8", (1, 8, 8), unet(32, 1, 2, 2)),
    "28x28": Setting("28x28", (1, 28, 28), unet(32, 1, 2, 2)),
}


def our_fit(net: Preconditioned, data: DataSet, batch: int) -> Fit:
    """Return a training run with the recipes' settings, as `reflow train` sets it up."""
    settings = VelocityFitSettings(
        steps=10**6, batch=batch, lr=2e-4, warmup=5000, ema_halflife=5000, times="uniform"
    )
    average = copy.deepcopy(net).eval().requires_grad_(False)
    return Fit(
        net,
        average,
        Independent(data, 0),
        objective_of(settings, None),
        settings,
        seed=0,
        stream="benchmark",
        device=CPU,
    )


def our_loop(net: Preconditioned, data: DataSet, batch: int) -> Loop:
    """Return what runs some steps of our training."""
    fit = our_fit(net, data, batch)

    def run(steps: int) -> None:
        for _ in range(steps):
            fit.advance()

    return run


def our_work(setting: Setting, steps: int, *, compiled: bool = False, keep: bool = True) -> Work:
    """Return so many steps of our training as `reflow train` takes them, or where memory is not kept."""
    if keep:
        keep_freed_memory()
    net = setting.net()
    if compiled:
        net.compile(dynamic=False)
    return partial(our_loop(net, setting.data(), setting.batch), steps)


def our_passes(setting: Setting, *, keep: bool = True) -> Work:
    """Return a forward and a backward pass of our network."""
    if keep:
        keep_freed_memory()
    return passes(setting.net(), setting)


def passes(net: nn.Module, setting: Setting) -> Work:
    """Return a forward and a backward pass of a network (x, t)."""
    x, t = setting.images()[: setting.batch], torch.linspace(0.01, 0.99, setting.batch)

    def work() -> None:
        net.zero_grad()
        net(x, t).square().mean().backward()

    return work
