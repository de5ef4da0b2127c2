"""The U-Net's short cuts change nothing but rounding, under every way in which torch runs a network."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from networks import awake
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from reflow.models import build, unet
from reflow.models.preconditioning import Preconditioned
from reflow.recipes.recipe import UnetSettings

EVENT = (2, 8, 12)
CHOSEN = UnetSettings(kind="unet", channels=8, multipliers=(1, 2, 2), attention=(4,))


@pytest.fixture
def net() -> Preconditioned:
    """Return a float64 U-Net of three levels that no longer starts silent."""
    torch.manual_seed(0)
    return awake(build(CHOSEN, EVENT, None)).double()


transforms = sdpa_kernel(SDPBackend.MATH)  # the fused attention of torch knows first gradients only


def batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(3, *EVENT, dtype=torch.float64, generator=rng), torch.tensor([0.1, 0.5, 0.9])


def enlarged_plainly(layer: unet.Upsample, x: Tensor) -> Tensor:
    doubled = F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.conv2d(doubled, layer.weight, layer.bias, padding=1)


def gradients(f: Callable[..., Tensor], inputs: tuple[Tensor, ...], *others: Tensor) -> tuple[Tensor, ...]:
    value = f(*others)
    weight = torch.randn(value.shape, dtype=value.dtype, generator=torch.Generator().manual_seed(2))
    return value.detach(), *torch.autograd.grad((value * weight).sum(), inputs)


def close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)  # rounding of float64


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 4)])
def test_enlarging_is_nearest_neighbour_and_a_convolution(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = unet.Upsample(5, 3).double()
    x = torch.randn(4, 5, *shape, dtype=torch.float64, requires_grad=True)
    inputs = (x, *layer.parameters())
    close(gradients(layer, inputs, x), gradients(lambda x: enlarged_plainly(layer, x), inputs, x))


def test_the_short_cuts_change_neither_velocity_nor_gradients(
    net: Preconditioned, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, t = batch()
    found = gradients(net, tuple(net.parameters()), x, t)
    monkeypatch.setattr(unet.Upsample, "forward", enlarged_plainly)
    monkeypatch.setattr(unet, "activate", F.silu)
    close(found, gradients(net, tuple(net.parameters()), x, t))


def test_without_gradients_the_velocity_is_the_same_and_nothing_is_overwritten(net: Preconditioned) -> None:
    x, t = batch()
    before = x.clone()
    wanted = net(x, t)
    with torch.no_grad():
        without = net(x, t)
    frozen = net.requires_grad_(False)(x, t)
    assert torch.equal(without, wanted)
    assert torch.equal(frozen, wanted)
    assert torch.equal(net(x, t), wanted)  # neither x nor a weight has changed
    assert torch.equal(x, before)


def test_the_gradient_for_the_input_of_a_frozen_network_is_right(net: Preconditioned) -> None:
    x, t = batch()
    wanted = gradients(net, (x.requires_grad_(),), x, t)
    close(gradients(net.requires_grad_(False), (x,), x, t), wanted)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own use, on the way
@transforms
def test_forward_and_backward_derivatives_agree(net: Preconditioned) -> None:
    """u . (J v) = (J^T u) . v, in functorch's transformations and in forward AD without them."""
    (x, t), (u, v) = batch(), torch.randn(2, 3, *EVENT, dtype=torch.float64)
    frozen = net.requires_grad_(False)
    velocity, forward = torch.func.jvp(lambda x: frozen(x, t), (x,), (v,))
    _, pull = torch.func.vjp(lambda x: frozen(x, t), x)
    torch.testing.assert_close((u * forward).sum(), (pull(u)[0] * v).sum(), rtol=1e-10, atol=1e-10)
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = frozen(torch.autograd.forward_ad.make_dual(x, v), t)
        plain = torch.autograd.forward_ad.unpack_dual(dual)
    close((plain.primal, plain.tangent), (velocity, forward))


def test_vmap_is_a_batch() -> None:
    """Without attention, on whose layout torch's own rule for group norms fails."""
    torch.manual_seed(0)
    net = awake(build(CHOSEN.model_copy(update={"attention": ()}), EVENT, None)).double()
    x, t = batch()
    one_by_one = torch.func.vmap(lambda x, t: net(x[None], t)[0])(x, t)
    close((one_by_one,), (net(x, t),))


@transforms
def test_second_derivatives_exist(net: Preconditioned) -> None:
    x, t = batch()
    x.requires_grad_()
    (first,) = torch.autograd.grad(net(x, t).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    step = 1e-6 * first.detach()
    moved = x.detach() + step
    (ahead,) = torch.autograd.grad(net(moved.requires_grad_(), t).square().sum(), moved)
    # d(|g|^2) along g, by a finite difference of relative error 1e-6 or so.
    wanted = 2 * (first.detach() * (ahead - first.detach())).sum() / 1e-6
    torch.testing.assert_close((second * first).sum().detach(), wanted, rtol=1e-3, atol=0)


def test_the_compiler_sees_one_graph(net: Preconditioned) -> None:
    x, t = batch()
    compiled = torch.compile(net.network, backend="aot_eager", fullgraph=True)
    inputs = tuple(net.parameters())
    close(
        gradients(compiled, inputs, x, t.double(), None),
        gradients(net.network, inputs, x, t.double(), None),
    )


def test_autocast_costs_the_precision_of_bfloat16(net: Preconditioned) -> None:
    x, t = batch()
    net, x = net.float().requires_grad_(False), x.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(x, t)
    full = net(x, t)
    # Eight bits of mantissa, some thirty roundings in a row.
    assert float((half - full).square().mean().sqrt()) < 0.02 * float(full.square().mean().sqrt())


def test_features_are_channels_last_throughout(net: Preconditioned) -> None:
    """Another layout at a convolution or a norm costs a hidden copy."""
    strange = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        strange.extend(
            type(layer).__name__
            for value in (*inputs, output)
            if not value.is_contiguous(memory_format=torch.channels_last)
        )

    for name, layer in net.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.GroupNorm)) and name != "network.enter":  # which sees images
            layer.register_forward_hook(look)
    net(*batch())
    assert strange == []
