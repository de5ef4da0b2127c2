"""The training loops that users would otherwise write or take, around the same network.

Each function here has a network (x, t) -> velocity, images (N, C, H, W) in [-1, 1] in memory and a batch
size, and returns what runs some steps of that project's loop with its optimiser, average and clipping.

* torchcfm: the library's ConditionalFlowMatcher in the steps of examples/images/cifar10/train_cifar10.py
  with its independent coupling, written again as the package has no examples.
* rectified-flow-pytorch: the package's own Trainer.
* rectified-flow (lqiang67): the library's RectifiedFlow in the steps of pipelines/train_unet_cifar.py,
  written again for the same reason.

The last two import torchvision, which the CPU build of torch lacks, and use it for pictures only: a stub
answers while they are imported.
"""

import contextlib
import copy
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

Loop = Callable[[int], object]  # runs so many steps
RARELY = 10**9  # steps between what is no part of training


class Stub(ModuleType):
    """A module in which every name is there and does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=name)


@contextlib.contextmanager
def without_torchvision() -> Iterator[None]:
    names = ["torchvision", *(f"torchvision.{part}" for part in ("utils", "models", "transforms"))]
    sys.modules.update({name: Stub(name) for name in names})
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


with without_torchvision():
    import rectified_flow
    import rectified_flow_pytorch


class Swapped(nn.Module):
    """The network called as (t, x), or as (x, times=t)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, first: Tensor, second: Tensor | None = None, times: Tensor | None = None) -> Tensor:
        x, t = (first, times) if second is None else (second, first)
        velocity: Tensor = self.net(x, t)
        return velocity


def batches(images: Tensor, batch: int) -> Iterator[Tensor]:
    while True:
        yield images[torch.randint(len(images), (batch,))]


def repeated(step: Callable[[], object]) -> Loop:
    def run(steps: int) -> None:
        for _ in range(steps):
            step()

    return run


def torchcfm_loop(net: nn.Module, images: Tensor, batch: int) -> Loop:
    """Adam at 2e-4 with 5,000 steps of warm-up, clipping at 1, and an average of decay 0.9999."""
    model, stream = Swapped(net), batches(images, batch)
    average = copy.deepcopy(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(step, 5000) / 5000)
    matcher = ConditionalFlowMatcher(sigma=0.0)

    def step() -> None:
        optimiser.zero_grad()
        x1 = next(stream)
        t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        loss = ((model(t, xt) - ut) ** 2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        source, target = model.state_dict(), average.state_dict()
        for name in source:
            target[name].copy_(target[name] * 0.9999 + source[name] * (1 - 0.9999))

    return repeated(step)


def trainer_loop(net: nn.Module, images: Tensor, batch: int) -> Loop:
    """The Trainer with its defaults: Adam at 3e-4, clipping at 0.5, an average every ten steps.

    Its data loader collates images one by one, and every step prints its loss, here to nowhere.
    """
    folder = tempfile.TemporaryDirectory()
    trainer = rectified_flow_pytorch.Trainer(
        rectified_flow_pytorch.RectifiedFlow(Swapped(net)),
        dataset=list((images + 1) / 2),
        batch_size=batch,
        checkpoints_folder=f"{folder.name}/checkpoints",
        results_folder=f"{folder.name}/results",
        save_results_every=RARELY,
        checkpoint_every=RARELY,
    )

    def run(steps: int) -> None:
        trainer.num_train_steps = steps
        with contextlib.redirect_stdout(io.StringIO()):
            trainer()

    return run


def rectified_flow_loop(net: nn.Module, images: Tensor, batch: int) -> Loop:
    """AdamW at 2e-4 with 10,000 steps of warm-up, no clipping, an average of decay 0.9999; all of it
    prepared by accelerate, whose step reads the loss for its progress bar."""
    stream, accelerator = batches(images, batch), Accelerator()
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-4, weight_decay=1e-4)
    schedule = get_scheduler("constant_with_warmup", optimiser, num_warmup_steps=10_000)
    model, optimiser, schedule = accelerator.prepare(net, optimiser, schedule)
    flow = rectified_flow.RectifiedFlow(
        data_shape=tuple(images.shape[1:]), velocity_field=model, device=accelerator.device
    )
    average = {name: weight.detach().clone() for name, weight in model.state_dict().items()}

    def step() -> None:
        with accelerator.accumulate([model]):
            x1 = next(stream)
            x0 = flow.sample_source_distribution(len(x1))
            t = flow.sample_train_time(len(x1), expand_dim=False)  # version 1.0.1 refuses its own default
            loss = flow.get_loss(x_0=x0, x_1=x1, t=t)
            accelerator.backward(loss)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                average[name].mul_(0.9999).add_(weight, alpha=1 - 0.9999)
        loss.item()

    return repeated(step)


LOOPS: dict[str, Callable[[nn.Module, Tensor, int], Loop]] = {
    "torchcfm example": torchcfm_loop,
    "rectified-flow-pytorch Trainer": trainer_loop,
    "rectified-flow (lqiang67)": rectified_flow_loop,
}
