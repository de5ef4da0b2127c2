"""What some processes compute together and one computes alone, for tests/processes/test_distributed.py.

Under torchrun every process runs `main` and writes what came out.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from reflow.couplings import Coupling, Independent
from reflow.couplings.transport import Transported
from reflow.distributed import Shared, Vote, World, agree, gathered, joined, total
from reflow.flow import Losses, Objective, Pair, VelocityField, per_sample, velocity_objective
from reflow.models import build
from reflow.objectives.distances import squared
from reflow.objectives.distillation import mean_flow_objective
from reflow.objectives.times import stratified, uniform
from reflow.randomness import Draws
from reflow.recipes.recipe import UnetSettings
from reflow.recipes.training import VelocityFitSettings
from reflow.training.fit import Fit

CPU = torch.device("cpu")
STEPS = 20
WEIGHTED = {"weighting": "uncertainty"}


@dataclass
class Images:
    """Fifty images of noise with structure."""

    dtype: torch.dtype

    def __len__(self) -> int:
        return 50

    def raw(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        number = torch.from_numpy(rows).to(self.dtype)
        pixels = torch.arange(64, dtype=self.dtype)
        return torch.sin(number[:, None] + pixels * 0.3).reshape(-1, 1, 8, 8), None


def swirl(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """Evaluate a teacher's velocity."""
    return torch.sin(x.flip(-1) + per_sample(t, x))


def precisely(dtype: torch.dtype, *, spans: bool) -> Objective:
    """Return the objective of a velocity, or of averages over spans, with everything in this precision."""

    def times(draws: Draws) -> Tensor:
        return stratified(uniform)(draws).to(dtype)

    inner = mean_flow_objective(swirl, 0.25, squared) if spans else velocity_objective(times, squared)

    def objective(field: VelocityField, pair: Pair, draws: Draws) -> Losses:
        return inner(field, Pair(pair.x0.to(dtype), pair.x1.to(dtype)), draws)

    return objective


def coupling_of(dtype: torch.dtype, *, flip: bool, transport: int | None) -> Coupling:
    independent = Independent(Images(dtype), seed=0, flip=flip)
    return independent if transport is None else Transported(independent, transport)


def fit_of(
    world: World,
    dtype: torch.dtype,
    *,
    flip: bool = False,
    transport: int | None = None,
    spans: bool = False,
    **chosen: object,
) -> Fit:
    usual = {"steps": STEPS, "batch": 16, "lr": 1e-2, "ema_halflife": 2.0}
    torch.manual_seed(0)
    net = build(UnetSettings(kind="unet", channels=8, attention=(4,)), (1, 8, 8), None, spans=spans)
    net = net.to(dtype)
    with torch.no_grad():
        for weight in net.parameters():  # no layer starts at zero
            weight.add_(0.05 * torch.randn(weight.shape, dtype=dtype))
    average = copy.deepcopy(net).requires_grad_(False)
    settings = VelocityFitSettings.model_validate(usual | chosen)
    coupling = coupling_of(dtype, flip=flip, transport=transport)
    kept = {"seed": 0, "stream": "test", "device": CPU, "world": world}
    objective = precisely(dtype, spans=spans)
    return Fit(net, average, coupling, objective, settings, **kept)  # type: ignore[arg-type]


def joined_up(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.detach().reshape(-1) for part in parts])


def gradient(world: World, **chosen: object) -> Tensor:
    """Return the gradient of the first step, unclipped."""
    fit = fit_of(world, torch.float32, clip=1e9, **chosen)
    fit.advance()
    parts = [fit.layout.whole(weight.grad) for weight in fit.weights.values() if weight.grad is not None]
    return joined_up(parts)


def trained(world: World, dtype: torch.dtype, **chosen: object) -> dict[str, Tensor]:
    """Return the state after twenty steps and the loss of each."""
    fit, losses = fit_of(world, dtype, **chosen), []
    for _ in range(STEPS):
        fit.advance()
        losses.append(fit.means.read(world).loss)
    return fit.tensors() | {"losses": torch.tensor(losses)}


def resumed(world: World, dtype: torch.dtype, **chosen: object) -> dict[str, Tensor]:
    """Return the state after twenty steps with an interruption after twelve."""
    first = fit_of(world, dtype, **chosen)
    for _ in range(12):
        first.advance()
    kept = {name: tensor.clone() for name, tensor in first.tensors().items()}
    second = fit_of(world, dtype, **chosen)
    second.restore(Shared(kept, world), 12)
    for _ in range(STEPS - 12):
        second.advance()
    return second.tensors()


def computed(world: World) -> dict[str, Tensor]:
    """Return all that is compared, by name."""
    results = {
        "single": trained(world, torch.float32),
        "double": trained(world, torch.float64),
        "pieces": trained(world, torch.float64, micro_batch=4),
        "flipped": trained(world, torch.float64, flip=True),
        "mean flow": trained(world, torch.float64, spans=True, lr=1e-3),
        "transported": trained(world, torch.float64, flip=True, transport=16),
        "weighted": trained(world, torch.float64, micro_batch=4, **WEIGHTED),
    }
    flat = {f"{case}.{name}": tensor for case, state in results.items() for name, tensor in state.items()}
    return flat | {"gradient": gradient(world), "gradient in pieces": gradient(world, micro_batch=2)}


def sharded(world: World) -> dict[str, Tensor]:
    """Return what shares of a network come to."""
    results = {
        "shares": trained(world, torch.float32, sharded=True),
        "shares in pieces": trained(world, torch.float64, sharded=True, micro_batch=4),
        "shares resumed": resumed(world, torch.float32, sharded=True),
        "resumed": resumed(world, torch.float32),
        "weighted resumed": resumed(world, torch.float64, micro_batch=4, **WEIGHTED),
    }
    fit = fit_of(world, torch.float32, sharded=True)
    fit.advance()
    average = joined_up(fit.averaged().parameters())
    flat = {f"{case}.{name}": tensor for case, state in results.items() for name, tensor in state.items()}
    return flat | {"average of shares": average, "gradient of shares": gradient(world, sharded=True)}


def spoken(world: World) -> dict[str, Tensor]:
    """Return what the processes tell one another."""
    vote = Vote(world)
    first = vote.cast(world.rank + 1, 0)
    second = vote.cast(0, 7 * world.rank)
    third = vote.counted()
    rank = torch.tensor([float(world.rank)])
    lengths = (world.rank + 1, 2 * world.rank, 2 - 2 * world.rank)
    lists = [gathered(torch.full((length,), world.rank), world) for length in lengths]
    told = torch.cat([part for parts in lists for part in parts or [rank]])
    return {
        "votes": torch.tensor([first, second, third]),
        "agreed": torch.tensor(agree(world.rank + 5, world)),
        "gathered": agree(told, world),
        "total": total(rank + 1, world),
        "shared": Shared({"a": rank + 3} if world.leads else {}, world)["a"],
    }


def main(out: Path) -> None:
    with joined(CPU) as world:
        answers = computed(world) | sharded(world) | spoken(world)
        for rank in range(world.size):
            if rank == world.rank:
                save_file({k: v.contiguous() for k, v in answers.items()}, out / f"{rank}.safetensors")
