"""Networks: what they are at the start, what preconditioning makes of them, what they refuse."""

from typing import Any

import pytest
import torch
from networks import awake, either, kinds
from torch import Tensor, nn

from reflow.errors import ReflowError
from reflow.models import build
from reflow.models.preconditioning import Preconditioned
from reflow.models.unet import Attention
from reflow.recipes.recipe import DitSettings, MlpSettings, ModelSettings, UnetSettings

UNETS: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "grey": ((1, 8, 8), {"multipliers": (1, 2)}),
    "colour": ((3, 8, 8), {"multipliers": (1, 2)}),
    "not square": ((3, 8, 12), {"multipliers": (1, 1, 2)}),
    "one level": ((1, 5, 7), {"multipliers": (1,)}),
    "four levels": ((1, 16, 16), {"multipliers": (1, 2, 2, 3)}),
    "two blocks": ((3, 8, 8), {"multipliers": (1, 2), "blocks": 2}),
    "attention": ((3, 8, 8), {"multipliers": (1, 2), "blocks": 2, "attention": (8, 4)}),
    "odd widths": ((1, 8, 8), {"channels": 12, "multipliers": (1, 3), "attention": (4,)}),
}
unets = pytest.mark.parametrize("name", UNETS)


def unet(name: str, classes: int | None = None, **changed: Any) -> tuple[Preconditioned, Tensor]:
    """Return a float64 U-Net and images for it."""
    event, chosen = UNETS[name]
    torch.manual_seed(0)
    net = build(UnetSettings(kind="unet", **({"channels": 8} | chosen | changed)), event, classes)
    return net.double(), torch.randn(4, *event, dtype=torch.float64)


def some_times() -> Tensor:
    return torch.tensor([0.0, 0.25, 0.625, 1.0], dtype=torch.float64)


@kinds
def test_velocity_and_gradients_are_finite_at_both_ends(kind: str) -> None:
    net, x = either(kind)
    net = awake(net).float()
    x = x.float().requires_grad_()
    for t in (0.0, 1.0):
        velocity = net(x, torch.full((4,), t))
        assert bool(velocity.isfinite().all())
        (gradient,) = torch.autograd.grad(velocity.square().sum(), x)
        assert bool(gradient.isfinite().all())


@kinds
def test_every_sample_has_a_time_of_its_own(kind: str) -> None:
    net, x = either(kind)
    awake(net).eval()
    t = some_times()
    together = net(x, t)
    for row in range(4):
        one = slice(row, row + 1)
        # Sums may be ordered otherwise in a batch of one: rounding of float64.
        torch.testing.assert_close(net(x[one], t[one]), together[one], rtol=1e-11, atol=1e-11)
    assert not torch.allclose(net(x, t.flip(0)), together)


@kinds
def test_a_scalar_time_is_the_time_of_all_samples(kind: str) -> None:
    """As torchdiffeq and other solvers call a field."""
    net, x = either(kind)
    awake(net).eval()
    everywhere = net(x, torch.full((4,), 0.25))
    assert torch.equal(net(x, torch.tensor(0.25)), everywhere)
    assert torch.equal(net(x, 0.25), everywhere)


@kinds
def test_every_sample_has_a_label_of_its_own(kind: str) -> None:
    net, x = either(kind, classes=3)
    awake(net).eval()
    t, label = some_times(), torch.tensor([0, 2, 1, 2])
    together = net(x, t, label)
    for row in range(4):
        one = slice(row, row + 1)
        alone = net(x[one], t[one], label[one])
        torch.testing.assert_close(alone, together[one], rtol=1e-11, atol=1e-11)  # rounding
    other = net(x, t, torch.tensor([0, 2, 1, 0]))
    assert not torch.allclose(other[3], together[3])


@unets
def test_unets_keep_the_shape_of_images(name: str) -> None:
    net, x = unet(name)
    velocity = awake(net)(x, some_times())
    assert velocity.shape == x.shape
    assert bool(velocity.isfinite().all())


@unets
def test_the_memory_format_of_images_does_not_matter(name: str) -> None:
    net, x = unet(name)
    awake(net).eval()
    contiguous = net(x, some_times())
    permuted = net(x.to(memory_format=torch.channels_last), some_times())
    # Other kernels order the sums otherwise: rounding of float64.
    torch.testing.assert_close(permuted, contiguous, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [24, 64])  # one head and two
def test_attention_is_the_multi_head_attention_of_torch(channels: int) -> None:
    torch.manual_seed(0)
    attention = Attention(channels).double()
    nn.init.normal_(attention.project.weight)  # it starts at zero
    reference = nn.MultiheadAttention(channels, attention.heads, batch_first=True).double()
    reference.load_state_dict(
        {
            "in_proj_weight": attention.qkv.weight.flatten(1),
            "in_proj_bias": attention.qkv.bias,
            "out_proj.weight": attention.project.weight.flatten(1),
            "out_proj.bias": attention.project.bias,
        }
    )
    x = torch.randn(2, channels, 3, 5, dtype=torch.float64)
    pixels = attention.norm(x).flatten(2).transpose(1, 2)  # (B, pixels, channels)
    gathered, _ = reference(pixels, pixels, pixels, need_weights=False)
    wanted = x + gathered.transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(attention(x), wanted, rtol=1e-11, atol=1e-11)  # rounding


@kinds
@pytest.mark.parametrize("classes", [None, 4])
def test_gradients_reach_every_weight(kind: str, classes: int | None) -> None:
    net, x = either(kind, classes)
    awake(net)
    label = None if classes is None else torch.tensor([0, 1, 2, 3])
    net(x, torch.tensor([0.1, 0.25, 0.625, 0.9]), label).square().mean().backward()
    silent = [name for name, w in net.named_parameters() if w.grad is None or not float(w.grad.abs().sum())]
    assert silent == []


@kinds
def test_the_batch_may_differ_from_the_one_of_an_export(kind: str) -> None:
    """A size that Python reads along the way would be fixed in an exported program."""
    net, x = either(kind, classes=3)
    awake(net).eval()
    t, label = some_times(), torch.tensor([0, 2, 1, 2])
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(net, (x, t, label), dynamic_shapes=({0: batch}, {0: batch}, {0: batch}))
    more = (torch.cat([x, x.flip(0)]), torch.cat([t, t]), torch.cat([label, label.flip(0)]))
    torch.testing.assert_close(exported.module()(*more), net(*more), rtol=1e-11, atol=1e-11)  # rounding


@kinds
def test_noise_level_and_label_are_told_apart_in_float32_under_autocast(kind: str) -> None:
    """bfloat16 has 8 bits: it would not tell apart two levels that differ by less than a 256th."""
    net, x = either(kind, classes=3)
    embedding = net.float().network.embedding
    level, label = torch.linspace(-2.9, 2.9, 4), torch.tensor([0, 2, 1, 2])
    usual = embedding(level, label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = embedding(level, label)
        velocity = awake(net)(x.float(), some_times(), label)
    assert features.dtype == torch.float32
    assert torch.equal(features, usual)
    # bfloat16 has 8 bits, and errors of some layers add up.
    torch.testing.assert_close(velocity, net(x.float(), some_times(), label), rtol=0.1, atol=0.1)


@kinds
def test_dropout_is_active_in_training_only(kind: str) -> None:
    net, x = either(kind, dropout=0.5)
    awake(net)
    plain, _ = either(kind, dropout=0.0)
    awake(plain).eval()
    t = some_times()
    net.train()
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))
    assert torch.equal(net(x, t), plain(x, t))


@kinds
def test_a_model_without_classes_refuses_a_label(kind: str) -> None:
    net, x = either(kind)
    with pytest.raises(ReflowError, match="this model takes no label"):
        net(x, some_times(), torch.zeros(4, dtype=torch.int64))


@kinds
def test_a_model_with_classes_needs_a_label(kind: str) -> None:
    net, x = either(kind, classes=3)
    with pytest.raises(ReflowError, match="this model needs a label"):
        net(x, some_times())


@kinds
def test_one_seed_builds_one_network(kind: str) -> None:
    first, second = either(kind)[0].state_dict(), either(kind)[0].state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("settings", "event", "words"),
    [
        (MlpSettings(kind="mlp"), (1, 8, 8), r"model.kind = mlp is for vectors.*use unet or dit"),
        (UnetSettings(kind="unet"), (2,), r"model.kind = unet is for images.*use mlp"),
        (UnetSettings(kind="unet"), (1, 7, 8), r"7 x 8 pixels cannot be halved 1 times"),
        (UnetSettings(kind="unet"), (1, 8, 7), r"8 x 7 pixels cannot be halved 1 times"),
        (
            UnetSettings(kind="unet", multipliers=(1, 1, 1, 1)),
            (3, 28, 28),
            r"cannot be halved 3 times; shorten model.multipliers or set data.size",
        ),
        (DitSettings(kind="dit", size="S"), (2,), r"model.kind = dit is for images.*use mlp"),
        (
            DitSettings(kind="dit", size="S", patch=4),
            (1, 8, 6),
            r"8 x 6 pixels cannot be cut into patches of 4 x 4; choose model.patch .* or set data.size",
        ),
        (DitSettings(kind="dit", size="S", patch=4), (1, 6, 8), r"6 x 8 pixels cannot be cut"),
    ],
)
def test_networks_that_do_not_fit_the_data_are_refused_in_words(
    settings: ModelSettings, event: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ReflowError, match=words):
        build(settings, event, None)
