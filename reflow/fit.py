"""The only training loop: one optimiser step of any objective on any coupling.

Everything random in step k is drawn from generators seeded by (seed, stream, k), so a state needs no
generators: weights, averages, moments and the step number continue a run bit for bit.
"""

import itertools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from reflow import ema
from reflow.couplings import Coupling
from reflow.flow import Objective
from reflow.noise import draw_seed, generator
from reflow.settings import FitSettings

Schedule = Callable[[float], float]

SCHEDULES: dict[str, Schedule] = {  # share of the steps done -> share of the learning rate
    "constant": lambda done: 1.0,  # noqa: ARG005
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


class Fit:
    """A network under training with its optimiser, its average and the number of steps done.

    `losses` and `norms` add up loss and gradient norm since `reset` on the device, so that a step
    never waits for it; `rate` is the learning rate of the last step.
    """

    def __init__(
        self,
        net: nn.Module,
        average: nn.Module,
        coupling: Coupling,
        objective: Objective,
        settings: FitSettings,
        *,
        seed: int,
        stream: str,
        device: torch.device,
    ) -> None:
        self.net, self.average = net.to(device), average.to(device)
        self.coupling, self.objective, self.settings = coupling, objective, settings
        self.seed, self.stream, self.device = seed, stream, device
        self.weights = dict(self.net.named_parameters())
        self.averages = dict(self.average.named_parameters())
        self.optimiser = torch.optim.Adam(
            self.weights.values(), lr=settings.lr, betas=(0.9, settings.beta2), fused=True
        )
        self.step, self.rate = 0, 0.0
        self.reset()

    def reset(self) -> None:
        """Begin new sums of loss and gradient norm."""
        self.losses = torch.zeros((), device=self.device)
        self.norms = torch.zeros((), device=self.device)

    def advance(self) -> None:
        """Take one optimiser step."""
        rng = generator(self.device, self.seed, self.stream, self.step)
        torch.manual_seed(draw_seed(self.seed, f"{self.stream} dropout", self.step))
        pair = self.coupling.draw(self.step * self.settings.batch, self.settings.batch, rng)
        loss = self.objective(self.net, pair, rng).mean()
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.weights.values(), self.settings.clip)
        self.rate = self.learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate
        self.optimiser.step()
        self.step += 1
        ema.update(self.averages.values(), self.weights.values(), self.step, self.settings.ema_halflife)
        self.losses += loss.detach()
        self.norms += norm

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        settings = self.settings
        warm = min(1.0, (self.step + 1) / (settings.warmup + 1))
        return settings.lr * warm * SCHEDULES[settings.schedule](self.step / settings.steps)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a later `restore` needs beside the step number."""
        moments = {
            f"{moment}.{name}": self.optimiser.state[weight][moment]
            for moment, (name, weight) in itertools.product(("exp_avg", "exp_avg_sq"), self.weights.items())
        }
        raw = {f"raw.{name}": weight for name, weight in self.weights.items()}
        average = {f"ema.{name}": weight for name, weight in self.averages.items()}
        return moments | raw | average

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Continue after `step` steps from the tensors of that moment."""
        for name, weight in self.weights.items():
            weight.copy_(tensors[f"raw.{name}"])
            self.averages[name].copy_(tensors[f"ema.{name}"])
            self.optimiser.state[weight] = {
                "step": torch.tensor(float(step), device=self.device),
            } | {  # in the memory format of the weight, as the optimiser would have made them
                moment: torch.empty_like(weight).copy_(tensors[f"{moment}.{name}"])
                for moment in ("exp_avg", "exp_avg_sq")
            }
        self.step = step
        self.reset()
