"""Activation checkpointing: the same gradients bit for bit, from fewer bytes."""

import copy
from typing import Any

import pytest
import torch
from networks import KINDS, awake, either, kinds
from torch import Tensor

from reflow.models import checkpointing
from reflow.models.checkpointing import checkpoint_activations
from reflow.models.preconditioning import Preconditioned

TIMES = torch.tensor([0.1, 0.25, 0.625, 0.9])
LABELS = torch.tensor([0, 2, 1, 2])
DEEP: dict[str, dict[str, Any]] = {"mlp": {"blocks": 8}, "unet": {"blocks": 3}, "dit": {"depth": 8}}


def network(kind: str, *, checkpointed: bool, **changed: Any) -> tuple[Preconditioned, Tensor]:
    """Return a float32 network with labels, as after a first step, and samples for it."""
    net, x = either(kind, classes=3, **changed)
    net = awake(net.float())
    if checkpointed:
        checkpoint_activations(net)
    return net, x.float()


def loss(net: Preconditioned, x: Tensor) -> Tensor:
    return net(x, TIMES, LABELS).square().mean()


def gradients(net: Preconditioned, x: Tensor) -> dict[str, Tensor]:
    """Return the gradients of two steps, between which the generator of dropout goes on."""
    net.zero_grad()
    torch.manual_seed(1)
    for _ in range(2):
        loss(net, x).backward()
    return {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}


def saved_bytes(net: Preconditioned, x: Tensor) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, beside the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in net.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss(net, x).backward()
    return sum(kept.values())


@kinds
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_are_the_same_bits(kind: str, dropout: float) -> None:
    usual = gradients(*network(kind, checkpointed=False, dropout=dropout))
    found = gradients(*network(kind, checkpointed=True, dropout=dropout))
    assert set(found) == set(usual)
    assert all(torch.equal(found[name], usual[name]) for name in usual)


@pytest.mark.parametrize(("kind", "share"), [("mlp", 0.5), ("unet", 0.2), ("dit", 0.1)])
def test_fewer_bytes_wait_for_the_backward_pass(kind: str, share: float) -> None:
    """Measured shares are 0.37, 0.14 and 0.07; a block's input and the layers around the blocks remain."""
    usual = saved_bytes(*network(kind, checkpointed=False, **DEEP[kind]))
    found = saved_bytes(*network(kind, checkpointed=True, **DEEP[kind]))
    assert 0 < found < share * usual


@kinds
def test_names_and_values_of_the_state_stay(kind: str) -> None:
    usual = network(kind, checkpointed=False)[0].state_dict()
    found = network(kind, checkpointed=True)[0].state_dict()
    assert list(found) == list(usual)
    assert all(torch.equal(found[name], usual[name]) for name in usual)


@kinds
def test_copies_work_on_weights_of_their_own(kind: str) -> None:
    net, x = network(kind, checkpointed=False)
    before = copy.deepcopy(net)
    checkpoint_activations(net)
    after = copy.deepcopy(net)
    assert all("forward" not in vars(unit) for unit in before.units())
    usual = loss(net, x)
    with torch.no_grad():
        for weight in after.parameters():
            weight.mul_(1.5)
    changed = loss(after, x)
    changed.backward()
    assert all(weight.grad is None for weight in net.parameters())
    assert all(weight.grad is not None for weight in after.parameters())
    assert not torch.equal(changed, usual)
    assert torch.equal(loss(net, x), usual)
    assert torch.equal(loss(before, x), usual)


@kinds
def test_nothing_is_kept_to_be_computed_again_without_gradients(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = network(kind, checkpointed=True)
    monkeypatch.setattr(checkpointing, "checkpoint", None)  # calling it fails
    with torch.no_grad():
        loss(net, x)
    with pytest.raises(TypeError):
        loss(net, x)


def test_units_hold_nearly_all_weights_in_order() -> None:
    for kind in KINDS:
        net, _ = network(kind, checkpointed=False, **DEEP[kind])
        inside = [id(weight) for unit in net.units() for weight in unit.parameters()]
        everything = {id(weight): weight.numel() for weight in net.parameters()}
        assert len(inside) == len(set(inside))
        assert inside == [key for key in everything if key in set(inside)]
        assert sum(everything[key] for key in inside) > 0.8 * sum(everything.values())


@kinds
def test_units_are_called_in_their_order(kind: str) -> None:
    net, x = network(kind, checkpointed=False)
    called: list[int] = []
    for number, unit in enumerate(net.units()):
        unit.register_forward_hook(lambda *_, number=number: called.append(number))
    loss(net, x)
    assert called == list(range(len(net.units())))
