"""Continuous batching: what a sample gets depends on neither its slot, its neighbours nor its chunk."""

from collections.abc import Iterator

import pytest
import torch
from fields import Counted, draws, gaussian_by_label, power
from torch import Tensor

from reflow.errors import ReflowError
from reflow.flow import VelocityField
from reflow.solvers import integrate
from reflow.solvers.engine import Arrival, Draw, solve
from reflow.solvers.plan import fixed_plan, per_sample_plan
from reflow.solvers.solution import Solution, follow

PLANS = {
    "heun": fixed_plan("heun", 10),
    "dpm2m": fixed_plan("dpm2m", 10),
    "adams3 on a grid": fixed_plan("adams3", 10),
    **{solver: per_sample_plan(solver, 1e-3) for solver in ("adams4", "bosh3", "dopri5", "tsit5")},
}
MIXED = gaussian_by_label(0.6, 0.05, 0.005)  # ever stiffer
FIRST = 100  # number of the first sample


def labels(count: int) -> Tensor:
    return torch.arange(count) % 3


def chunks(x0: Tensor, label: Tensor | None, size: int) -> Iterator[Draw]:
    """Yield the samples in draws of a size, with numbers that are not their places."""
    number = torch.arange(FIRST, FIRST + len(x0))
    for start in range(0, len(x0), size):
        rows = slice(start, start + size)
        yield Draw(number[rows], x0[rows], None if label is None else label[rows])


def collected(arrivals: Iterator[Arrival], x0: Tensor) -> Solution:
    """Return the samples by number; each must arrive once."""
    x1, nfe = torch.full_like(x0, torch.nan), torch.zeros(len(x0), dtype=torch.int64)
    for arrival in arrivals:
        rows = arrival.number - FIRST
        assert not nfe[rows].any() and len(rows.unique()) == len(rows)
        x1[rows], nfe[rows] = arrival.x1, arrival.nfe
    assert nfe.all()
    return Solution(x1, nfe)


class Sizes:
    """A field that keeps the sizes of the batches it is handed."""

    def __init__(self, field: VelocityField) -> None:
        self.field = field
        self.seen: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert len(t) == len(x) and (label is None or len(label) == len(x))
        self.seen.append(len(x))
        return self.field(x, t, label)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("batch", "size"), [(7, 5), (32, 50), (64, 7)])
@pytest.mark.parametrize("name", PLANS)
def test_samples_are_solved_as_if_alone_and_keep_numbers_and_labels(
    name: str, batch: int, size: int, constant: bool
) -> None:
    """Chunks and slots of odd sizes, neighbours of other stiffness, refills and padding change nothing."""
    plan, x0, label = PLANS[name], draws(50, 1), labels(50)
    arrivals = solve(MIXED, plan.method(x0), chunks(x0, label, size), batch=batch, constant=constant)
    solution = collected(arrivals, x0)
    together = follow(plan, MIXED, x0, label=label)
    assert torch.equal(solution.nfe, together.nfe)
    # A few units in the last place of numbers of order one.
    torch.testing.assert_close(solution.x1, together.x1, rtol=0, atol=1e-13)
    for row in range(0, 50, 12):
        alone = follow(plan, MIXED, x0[row : row + 1], label=label[row : row + 1])
        assert alone.nfe == solution.nfe[row]
        torch.testing.assert_close(solution.x1[row], alone.x1[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", PLANS)
def test_on_arrival_a_sample_was_seen_as_often_as_it_says(name: str) -> None:
    x0, label = draws(50, 1), torch.arange(50)

    def by_number(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        return MIXED(x, t, label % 3)

    counted = Counted(by_number, 50)
    for arrival in solve(counted, PLANS[name].method(x0), chunks(x0, label, 9), batch=16):
        assert torch.equal(arrival.nfe, counted.evaluations[arrival.number - FIRST])


@pytest.mark.parametrize("name", PLANS)
def test_the_batch_keeps_its_shape_while_samples_last_and_shrinks_after(name: str) -> None:
    x0, field = draws(200, 1), Sizes(MIXED)
    drawn_at: list[int] = []

    def source() -> Iterator[Draw]:
        for draw in chunks(x0, labels(200), 10):
            drawn_at.append(len(field.seen))
            yield draw

    solution = collected(solve(field, PLANS[name].method(x0), source(), batch=64), x0)
    assert set(field.seen[: drawn_at[-1]]) == {64}
    assert field.seen == sorted(field.seen, reverse=True)  # never larger again
    if solution.nfe.max() > 2 * solution.nfe.min():
        assert field.seen[-1] < 64
    assert len(set(field.seen)) <= 3  # few shapes: by halves, down to 16


@pytest.mark.parametrize("count", [3, 100])
@pytest.mark.parametrize("name", PLANS)
def test_a_constant_batch_keeps_its_shape_to_the_very_end(name: str, count: int) -> None:
    x0, field = draws(count, 1), Sizes(MIXED)
    arrivals = solve(field, PLANS[name].method(x0), chunks(x0, labels(count), 8), batch=64, constant=True)
    collected(arrivals, x0)
    assert set(field.seen) == {64}


def test_the_batch_is_worth_its_slots() -> None:
    """With many samples nearly every slot works: batches of their own would wait for the slowest."""
    x0, label, field = draws(400, 1), labels(400), Sizes(MIXED)
    plan = PLANS["adams4"]
    solution = collected(solve(field, plan.method(x0), chunks(x0, label, 64), batch=32), x0)
    waiting = sum(
        32 * int(solution.nfe[start : start + 32].max()) for start in range(0, 400, 32)
    )  # slots and evaluations, if each batch waited
    assert sum(field.seen) < 1.1 * int(solution.nfe.sum()) < waiting


@pytest.mark.parametrize("constant", [False, True])
def test_an_empty_source_yields_nothing(constant: bool) -> None:
    method = PLANS["adams4"].method(draws(1))
    empty = Draw(torch.arange(0), draws(0))
    for source in ([], [empty], [empty, empty]):
        assert not list(solve(power(1), method, source, batch=4, constant=constant))


def test_empty_draws_among_others_are_passed_over() -> None:
    empty, x0 = Draw(torch.arange(0), draws(0)), draws(4)
    first, second = chunks(x0, None, 2)
    method = PLANS["dopri5"].method(x0)
    for batch in (1, 2, 3):
        source = [empty, first, empty, empty, second, empty]
        collected(solve(power(1), method, source, batch=batch), x0)


def test_samples_without_labels_stay_without() -> None:
    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is None
        return power(1)(x, t)

    x0 = draws(7)
    solution = collected(solve(field, PLANS["adams4"].method(x0), chunks(x0, None, 2), batch=3), x0)
    # Local errors of 1e-4 may add up to about the 1e-3 asked for.
    torch.testing.assert_close(solution.x1, x0 + 1, rtol=0, atol=1e-3)


def test_refills_leave_what_was_drawn_as_it_was() -> None:
    x0, label = draws(20, 1), labels(20)
    draw = Draw(torch.arange(FIRST, FIRST + 20), x0.clone(), label.clone())
    for name in PLANS:
        collected(solve(MIXED, PLANS[name].method(x0), [draw], batch=6), x0)
    assert torch.equal(draw.number, torch.arange(FIRST, FIRST + 20))
    assert torch.equal(draw.x0, x0) and draw.label is not None and torch.equal(draw.label, label)


@pytest.mark.parametrize("name", PLANS)
def test_a_velocity_that_is_not_finite_names_the_number_and_the_time(name: str) -> None:
    """The number of the sample, not its slot; it comes in when others have left."""

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        wrong = (label == 3) & (t > 0.6)
        return torch.where(wrong[:, None], torch.nan, power(2)(x, t))

    x0 = draws(20, 1)
    label = torch.where(torch.arange(20) == 17, 3, 0)
    # Each of these takes a step of less than 0.4 to beyond 0.6.
    with pytest.raises(ReflowError, match=r"sample 117 is not finite at t = (0\.[6-9]\d*|1\.0000);"):
        collected(solve(field, PLANS[name].method(x0), chunks(x0, label, 6), batch=4), x0)


@pytest.mark.parametrize(("solver", "steps"), [("heun", 10), ("rk4", 10), ("adams3", 20), ("dopri5", None)])
def test_the_time_that_is_named_is_the_fields_own(solver: str, steps: int | None) -> None:
    """On the way back as well, where it falls."""
    times: list[float] = []

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        times.append(float(t[0]))
        return torch.where(t[:, None] < 0.31, torch.nan, torch.ones_like(x))

    tolerance = 1e-3 if steps is None else None
    with pytest.raises(ReflowError) as refused:
        integrate(field, draws(1), solver=solver, steps=steps, tolerance=tolerance, t0=0.9, t1=0.1)
    assert f"at t = {times[-1]:.4f};" in str(refused.value)
    assert times[-1] < 0.31 <= min(times[:-1])


@pytest.mark.parametrize("name", PLANS)
def test_what_is_not_finite_in_an_idle_slot_is_ignored(name: str) -> None:
    x0, arrived = draws(9, 1), torch.zeros(9, dtype=torch.bool)
    poisoned = 0

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        nonlocal poisoned
        assert label is not None
        poisoned += int(arrived[label].sum())
        return torch.where(arrived[label][:, None], torch.nan, MIXED(x, t, label % 3))

    wanted = follow(PLANS[name], MIXED, x0, label=torch.arange(9) % 3)
    method = PLANS[name].method(x0)
    for arrival in solve(field, method, chunks(x0, torch.arange(9), 4), batch=4, constant=True):
        rows = arrival.number - FIRST
        arrived[rows] = True
        assert torch.equal(arrival.nfe, wanted.nfe[rows])
        torch.testing.assert_close(arrival.x1, wanted.x1[rows], rtol=0, atol=1e-13)  # rounding
    assert poisoned and arrived.all()


@pytest.mark.parametrize("name", PLANS)
def test_an_idle_slot_stands_still_within_the_interval(name: str) -> None:
    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert x.isfinite().all() and (t >= 0).all() and (t <= 1).all()
        return MIXED(x, t, label)

    x0 = draws(9, 1)
    collected(solve(field, PLANS[name].method(x0), chunks(x0, labels(9), 4), batch=4, constant=True), x0)
