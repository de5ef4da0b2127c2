"""The only training loop: one optimiser step of any objective on any coupling, on any number of processes.

Everything random in step k is drawn from generators seeded by (seed, stream, k) for the whole batch, so
N processes with a share of it each take the step that one process would, to rounding (dropout masks
excepted), and a state needs no generators: weights, averages, moments, the weighting and the step number
continue a run bit for bit. A step never waits for the device. One whose gradient is not finite is skipped
there.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from reflow.couplings import Coupling
from reflow.distributed import ALONE, World
from reflow.errors import ReflowError
from reflow.flow import Losses, Objective, Pair
from reflow.models.checkpointing import checkpoint_activations
from reflow.models.preconditioning import Preconditioned
from reflow.objectives.weighting import weighting_of
from reflow.precision import in_precision
from reflow.randomness import Draws, draw_seed, draws
from reflow.recipes.training import FitSettings
from reflow.training.averages import WIDTHS, gamma_of, update_ema, update_power
from reflow.training.parallel import Layout, Replicated, Sharded
from reflow.training.prefetch import Prefetch
from reflow.training.running_means import PATIENCE, RunningMeans

HALVINGS = 16  # of the loss's scale in float16, 2^16 at first; until it is 1, overflows say nothing

Schedule = Callable[[float], float]

SCHEDULES: dict[str, Schedule] = {  # share of the steps done -> share of the learning rate
    "constant": lambda done: 1.0,  # noqa: ARG005
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


class Fit:
    """A network under training with its optimiser, its average and the number of steps done.

    `means` sums up what a log tells; `rate` is the learning rate of the last step.
    """

    def __init__(
        self,
        net: Preconditioned,
        average: Preconditioned,
        coupling: Coupling,
        objective: Objective,
        settings: FitSettings,
        *,
        seed: int,
        stream: str,
        device: torch.device,
        world: World = ALONE,
    ) -> None:
        self.coupling, self.objective, self.settings = coupling, objective, settings
        self.seed, self.stream, self.device, self.world = seed, stream, device, world
        self.size, self.pieces = divide(settings, world)
        self.net = net.to(device)
        self.average = average if settings.sharded and not world.leads else average.to(device)
        if settings.recompute:
            checkpoint_activations(self.net)
        self.layout: Layout = (Sharded if settings.sharded else Replicated)(self.net, device, world)
        self.field = in_precision(self.layout.field, settings.precision, device)
        self.weights = dict(self.net.named_parameters())
        self.averages = self._averages()
        self.powers = self._powers()
        self.optimiser = torch.optim.Adam(
            self.weights.values(), lr=settings.lr, betas=(0.9, settings.beta2), fused=True
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
        self.batches = Prefetch(self._draw)
        self.means = RunningMeans(device, PATIENCE + HALVINGS * self.scaler.is_enabled())
        self.weighting = weighting_of(settings, device)
        self.step, self.rate = 0, 0.0

    def advance(self) -> None:
        """Take one optimiser step."""
        self.optimiser.zero_grad()
        parts = [self._backward(piece) for piece in range(self.pieces)]
        self.scaler.unscale_(self.optimiser)
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        norm = self.layout.whole(nn.utils.get_total_norm(gradients))
        self.rate = self.learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate
        # The fused optimiser clips and skips as it goes: it divides gradients by the one, and leaves all
        # as it is where the other is 1.
        self.optimiser.grad_scale = (norm / self.settings.clip).clamp(min=1.0).float()  # type: ignore[attr-defined]
        self.optimiser.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self.optimiser.step()
        self.scaler.update()
        self.step += 1
        weights, averages = (self.layout.held(side.values()) for side in (self.weights, self.averages))
        update_ema(averages, weights, self.step, self.settings.ema_halflife)
        for width, power in self.powers.items():
            update_power(self.layout.held(power.values()), weights, self.step, gamma_of(width))
        losses = _joined(parts)
        self.means.add(losses, norm)
        self.weighting.add(losses, norm.isfinite(), self.world)

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        settings = self.settings
        warm = min(1.0, (self.step + 1) / (settings.warmup + 1))
        return settings.lr * warm * SCHEDULES[settings.schedule](self.step / settings.steps)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a later `restore` needs beside the step number, on rank 0; every process must ask."""
        moments = {
            f"{moment}.{name}": self.optimiser.state[weight][moment]
            for moment, (name, weight) in itertools.product(("exp_avg", "exp_avg_sq"), self.weights.items())
        }
        raw = {f"raw.{name}": weight for name, weight in self.weights.items()}
        average = {f"ema.{name}": weight for name, weight in self.averages.items()}
        powers = {
            f"power-{width:g}.{name}": weight
            for width, power in self.powers.items()
            for name, weight in power.items()
        }
        held = {k: tensor.detach() for k, tensor in (moments | raw | average | powers).items()}
        kept = {"skipped": self.means.skipped} | self.weighting.tensors()
        return self.layout.gathered(held) | kept | self._scaling()

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Continue after `step` steps from the tensors of that moment, asking for each once."""
        self.means.skipped = tensors["skipped"].to(self.device)
        taken = float(step - int(self.means.skipped[0]))
        for name, weight in self.weights.items():
            self.layout.put(weight, tensors[f"raw.{name}"])
            self.layout.put(self.averages[name], tensors[f"ema.{name}"])
            for width, power in self.powers.items():
                self.layout.put(power[name], tensors[f"power-{width:g}.{name}"])
            self.optimiser.state[weight] = {"step": torch.tensor(taken, device=self.device)}
            for moment in ("exp_avg", "exp_avg_sq"):  # in the weight's memory format, as the optimiser's
                self.optimiser.state[weight][moment] = torch.zeros_like(weight)
                self.layout.put(self.optimiser.state[weight][moment], tensors[f"{moment}.{name}"])
        if self.scaler.is_enabled():
            scale, growth = tensors["scaling"].tolist()
            self.scaler.load_state_dict(
                self.scaler.state_dict() | {"scale": scale, "_growth_tracker": int(growth)}
            )
        self.weighting.restore(tensors)
        self.step = step
        self.means.reset()

    @torch.no_grad()
    def averaged(self) -> Preconditioned:
        """Return the network with the averaged weights, right on rank 0; every process must ask."""
        if self.settings.sharded:
            for name, weight in self.average.named_parameters():
                whole = self.layout.whole(self.averages[name])
                if self.world.leads:
                    weight.copy_(whole)
        return self.average

    def snapshot(self) -> dict[float, dict[str, Tensor]]:
        """Return the power-function averages by width and parameter, on rank 0; every process must ask."""
        return {width: self.layout.gathered(power) for width, power in self.powers.items()}

    def _powers(self) -> dict[float, dict[str, Tensor]]:
        """Return room for the power-function averages by width, if they are to be tracked."""
        widths = WIDTHS if self.settings.snapshots else ()
        return {
            width: {name: weight.detach().clone() for name, weight in self.weights.items()}
            for width in widths
        }

    def _averages(self) -> dict[str, Tensor]:
        """Return the averages by name: those of the averaged network, or shares of them."""
        if not self.settings.sharded:
            return dict(self.average.named_parameters())
        return {name: weight.detach().clone() for name, weight in self.weights.items()}

    def _scaling(self) -> dict[str, Tensor]:
        """Return the state of the loss scaling, where there is one."""
        if not self.scaler.is_enabled():
            return {}
        state = self.scaler.state_dict()
        return {"scaling": torch.tensor([state["scale"], state["_growth_tracker"]], dtype=torch.float64)}

    def _draw(self, number: int) -> tuple[Pair, Draws]:
        """Return micro-batch `number` of this process, counted over all steps."""
        step, piece = divmod(number, self.pieces)
        batch, first = self.settings.batch, (self.world.rank * self.pieces + piece) * self.size
        rows = np.arange(first, first + self.size)
        chosen = draws(self.device, batch, rows, seed=self.seed, stream=self.stream, step=step)
        return self.coupling.draw(step * batch + rows, chosen), chosen

    def _backward(self, piece: int) -> Losses:
        """Add the gradient of one micro-batch and return its losses, not weighted."""
        share = self.world.rank * self.pieces + piece
        position = (self.step, share) if share else (self.step,)
        torch.manual_seed(draw_seed(self.seed, f"{self.stream} dropout", *position))
        pair, chosen = self.batches(self.step * self.pieces + piece)
        last = piece == self.pieces - 1
        with contextlib.nullcontext() if last else self.layout.unsynced():
            losses = self.objective(self.field, pair, chosen)
            self.scaler.scale(self.weighting.weighted(losses).mean() / self.pieces).backward()
        return losses


def divide(settings: FitSettings, world: World) -> tuple[int, int]:
    """Return the size of a micro-batch and how many of them each process takes per step.

    Raises ReflowError when the batch cannot be divided evenly.
    """
    own, rest = divmod(settings.batch, world.size)
    if rest:
        raise ReflowError(
            f"batch = {settings.batch} cannot be divided among {world.size} processes; "
            f"set it to a multiple of {world.size}"
        )
    size = settings.micro_batch or own
    if own % size:
        raise ReflowError(
            f"micro_batch = {size} does not divide the {own} examples per process and step; "
            "set it to a divisor"
        )
    return size, own // size


def _joined(parts: list[Losses]) -> Losses:
    """Return the losses of micro-batches as one batch's."""
    times = [part.t for part in parts if part.t is not None]
    return Losses(torch.cat([part.each.detach() for part in parts]), torch.cat(times) if times else None)
