"""The divergence is the trace of the Jacobian, of any network and of what guides it."""

import itertools

import pytest
import torch
from fields import draws, six_blobs
from networks import awake, either, kinds
from torch import Tensor

from reflow.flow import VelocityField
from reflow.guidance import Guided
from reflow.metrics.divergence import probes_for, velocity_and_divergence


def trace(field: VelocityField, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
    """Return the divergence (B,) by central differences, whose error here is of the order of 1e-9."""
    d, step = x[0].numel(), 1e-4
    aside = step * torch.eye(d, dtype=x.dtype).reshape(d, *x.shape[1:])

    def one(row: int) -> Tensor:
        times = t[row].expand(d)
        own = None if label is None else label[row].expand(d)
        rise = field(x[row] + aside, times, own) - field(x[row] - aside, times, own)
        return rise.flatten(1).trace() / (2 * step)

    return torch.stack([one(row) for row in range(len(x))])


@kinds
@pytest.mark.parametrize("guided", [False, True])
def test_the_exact_divergence_is_the_trace_of_the_jacobian(kind: str, guided: bool) -> None:
    net, x = either(kind, 5, unconditional=True)
    net, x = awake(net).requires_grad_(False), x[:2]
    field = Guided(net, 5, 1.7, (0.0, 0.5)) if guided else net
    t, label = torch.tensor([0.3, 0.8]).double(), torch.tensor([4, 1])
    with torch.no_grad():  # as the solvers do
        velocity, found = velocity_and_divergence(field, x, t, label, None)
    assert found.shape == (2, 1) and found.dtype == torch.float64 and not found.requires_grad
    torch.testing.assert_close(found[:, 0], trace(field, x, t, label), rtol=0, atol=1e-6)
    torch.testing.assert_close(velocity, field(x, t, label), rtol=0, atol=0)


def test_the_mean_over_all_sign_vectors_is_the_trace() -> None:
    net, x = either("mlp")
    field, t = awake(net).requires_grad_(False), torch.rand(4, dtype=torch.float64)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3))).expand(4, 8, 3)
    _, found = velocity_and_divergence(field, x, t, None, signs)
    assert found.shape == (4, 8)
    assert float(found.std(1).min()) > 1e-3  # a single one is not
    torch.testing.assert_close(found.mean(1), trace(field, x, t, None), rtol=0, atol=1e-6)


def test_every_sample_has_its_own_probes() -> None:
    x, t = draws(3, 2), torch.tensor([0.2, 0.5, 0.9]).double()
    signs = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]], [[-1.0, -1.0]]])
    field = six_blobs(0.3)
    _, found = velocity_and_divergence(field, x, t, None, signs)
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda x, row=row: field(x[None], t[row : row + 1])[0], x[row]
        )
        sign = signs[row, 0].double()
        torch.testing.assert_close(found[row, 0], sign @ jacobian @ sign)


def test_probes_are_signs_that_belong_to_a_number() -> None:
    event = (2, 3)
    probes = probes_for(7, "some", range(400), 5, event)
    assert probes is not None and probes.shape == (400, 5, *event)
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(probes.mean())) < 4 / 12000**0.5
    other = probes_for(7, "some", [13, 2], 3, event)
    assert other is not None and torch.equal(other, probes[[13, 2], :3])
    assert not torch.equal(probes, probes_for(8, "some", range(400), 5, event))


def test_few_dimensions_need_no_probes() -> None:
    assert probes_for(0, "some", range(3), 2, (2,)) is None
    assert probes_for(0, "some", range(3), 1, (2,)) is not None
