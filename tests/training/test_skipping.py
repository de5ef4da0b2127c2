"""Steps whose gradient is not finite are skipped; losses are scaled where half precision needs it."""

import math
from collections.abc import Callable

import pytest
import torch
from fits import UNIFORM_LOSS, Watched, advance, begin, fit_settings, loss_of, stored

from reflow.distributed import ALONE
from reflow.training import fit as loop
from reflow.training.fit import Fit
from reflow.training.running_means import PATIENCE


def spoilt(*steps: int, by: float = math.nan) -> Callable[[int], float]:
    """Return the weight of each step's loss: not finite at these."""
    return lambda step: by if step in steps else 1.0


def fit_of(*steps: int, by: float = math.nan) -> Fit:
    return begin(fit_settings(snapshots=0), objective=Watched(UNIFORM_LOSS, spoilt(*steps, by=by)))


@pytest.mark.parametrize("by", [math.nan, math.inf])
def test_a_bad_step_changes_neither_weights_nor_moments(by: float) -> None:
    fit = advance(fit_of(3, by=by), 3)
    before = stored(fit)
    fit.advance()
    after = stored(fit)
    for name, tensor in before.items():
        if not name.startswith(("ema.", "skipped")):
            assert torch.equal(tensor, after[name]), name
    assert fit.step == 4
    assert int(fit.means.skipped[0]) == 1
    advance(fit, 2)
    assert all(bool(tensor.isfinite().all()) for tensor in fit.tensors().values())
    assert loss_of(fit) is not None


def test_the_optimiser_does_not_count_a_skipped_step() -> None:
    """Adam's correction of its moments is by the steps that it has taken."""
    fit = advance(fit_of(0), 2)
    taken = {float(state["step"]) for state in fit.optimiser.state.values()}
    assert taken == {1.0}


def test_a_fit_restored_after_a_bad_step_continues_bit_for_bit() -> None:
    whole = advance(fit_of(1, 5), 8)
    first = advance(fit_of(1, 5), 4)
    kept = stored(first)
    second = begin(
        fit_settings(snapshots=0), objective=Watched(UNIFORM_LOSS, lambda step: spoilt(1, 5)(step + 4))
    )
    second.restore(kept, 4)
    advance(second, 4)
    wanted, found = stored(whole), stored(second)
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    assert second.means.read(ALONE).skipped == 2


def scaled(*steps: int) -> Fit:
    """Return a fit that scales its losses as in float16; a power of two changes nothing in float32."""
    fit = fit_of(*steps, by=math.inf)
    fit.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
    return fit


def test_scaled_losses_give_the_same_steps() -> None:
    wanted, found = stored(advance(fit_of(), 10)), stored(advance(scaled(), 10))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7)  # rounding


def test_the_scale_shrinks_at_an_overflow_and_grows_in_quiet_times() -> None:
    fit = advance(scaled(1), 2)
    assert fit.scaler.get_scale() == 2.0**9
    assert int(fit.means.skipped[0]) == 1
    advance(fit, 4)
    assert fit.scaler.get_scale() == 2.0**10


def test_the_scale_is_part_of_the_state() -> None:
    whole, first = advance(scaled(1), 9), advance(scaled(1), 4)
    second = scaled()
    second.restore(stored(first), 4)
    advance(second, 5)
    assert second.scaler.get_scale() == whole.scaler.get_scale() == 2.0**10
    assert torch.equal(second.tensors()["scaling"], whole.tensors()["scaling"])


def test_overflows_of_the_first_scales_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each halves the scale of 2^16; only what overflows at a scale of 1 is not finite by itself."""
    monkeypatch.setattr(loop, "in_precision", lambda field, *where: field)  # noqa: ARG005
    training = begin(
        fit_settings(precision="float16", steps=30, snapshots=0),
        objective=Watched(UNIFORM_LOSS, spoilt(*range(30))),
    )
    advance(training, 16 + PATIENCE - 1)
    assert training.scaler.get_scale() <= 1
    assert not training.means.hopeless()
    training.advance()
    assert training.means.hopeless()
