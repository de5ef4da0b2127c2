"""Options of training act: memory, precision and what is written when, through the command line."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from commands import Command
from sessions import train
from torch import Tensor, nn

from reflow.artifacts import read_artifact
from reflow.models.preconditioning import Preconditioned

STEPS = 30  # of the tiny recipe, of 16 examples each


@dataclass
class Seen:
    """How a network was called in training."""

    sizes: list[int] = field(default_factory=list)
    precisions: list[torch.dtype | None] = field(default_factory=list)
    units: int = 0  # calls of units


def watch(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen, forward, unit_forward = Seen(), Preconditioned.forward, nn.GroupNorm.forward

    def watched(
        self: Preconditioned, x: Tensor, t: Tensor, label: Tensor | None = None, *end_time: Tensor
    ) -> Tensor:
        if torch.is_grad_enabled():
            seen.sizes.append(len(x))
            autocast = torch.is_autocast_enabled("cpu")
            seen.precisions.append(torch.get_autocast_dtype("cpu") if autocast else None)
        return forward(self, x, t, label, *end_time)

    def counted(self: nn.GroupNorm, x: Tensor) -> Tensor:
        seen.units += torch.is_grad_enabled()
        return unit_forward(self, x)

    monkeypatch.setattr(Preconditioned, "forward", watched)
    monkeypatch.setattr(nn.GroupNorm, "forward", counted)
    return seen


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def weights(out: Path) -> Tensor:
    _, tensors = read_artifact(out / "model.safetensors", "model")
    return torch.cat([tensor.flatten() for _, tensor in sorted(tensors.items())])


def test_memory_and_rhythm_act_and_the_model_stays(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "base"
    with monkeypatch.context() as patch:
        usual = watch(patch)
        train(reflow, tmp_path / "usual")
    seen = watch(monkeypatch)
    train(reflow, out, micro_batch=4, recompute=True, validate_every=10, snapshots=3, log_every=5)
    assert (usual.sizes, seen.sizes) == ([16] * STEPS, [4] * 4 * STEPS)
    per_call, recomputed = usual.units / len(usual.sizes), seen.units / len(seen.sizes)
    assert recomputed > 1.5 * per_call  # those of units twice, the last one once
    assert [line["step"] for line in lines(out) if "held_out_loss" in line] == [10, 20, 30]
    assert sorted(path.name for path in out.glob("averages-*")) == [
        f"averages-{step:08}.safetensors" for step in (10, 20, 30)
    ]
    difference = weights(out) - weights(chain / "base")
    # Adam makes rounding of float32 as large as its steps where a gradient is nearly zero.
    assert float(difference.norm()) < 1e-3 * float(weights(chain / "base").norm())


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="emulated, and refused")
def test_half_precision_is_that_of_the_network_in_training(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch)
    train(reflow, tmp_path / "base", precision="bfloat16", validate_every=10)
    assert seen.precisions == [torch.bfloat16] * STEPS
    found, wanted = weights(tmp_path / "base"), weights(chain / "base")
    assert found.dtype == torch.float32
    assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.05  # eight bits, thirty steps
    for line, other in zip(lines(tmp_path / "base"), lines(chain / "base"), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=0.02)
