"""A pilot of a few dozen samples: where steps are needed, how many, and how accurate they will be.

The pilot is solved on ever finer grids until two of them agree; the finest is the truth that cheaper
plans are measured against. Along its trajectories the second derivative of the velocity tells how
dense steps must lie: the local error of a method of order two grows as h^3 |v''|, so steps of equal
error have a density of |v''|^(1/3). Some steps are spread as what is left of the way, without which
stiff ends are unstable. What the pilot sees of errors is less than what many samples have: a few
samples near a divide between images err ten or a hundred times more than the rest. So plans aim
lower (`MARGIN`), and samples whose own estimate exceeds all the pilot's are solved again with twice
the steps. docs/math.md, "Solvers".

Shapes: P pilot samples, x0, x1 (P, *event), label (P,) or None.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reflow.errors import ReflowError
from reflow.flow import VelocityField
from reflow.solvers.grids import cosine, from_density
from reflow.solvers.plan import CALIBRATED, LOCAL_SHARE, Plan
from reflow.solvers.solution import between, follow
from reflow.solvers.step_density import Curvature, density

FEWEST, MOST, SHARE = 24, 256, 0.01  # samples of a pilot: a share of the samples that follow, within bounds
MARGIN = 0.5  # of the wanted error: what the pilot's own error may be
AGREEMENT = 2.0  # of the wanted error: by how much two grids, one twice as fine, may differ
FINEST = 2000  # steps of the pilot; a field that needs more is not smooth
CHOICES = ((4, 0.0), (3, 0.0))  # order of Adams' method, share of the steps that are spread
UNSTABLE = 10  # times the error aimed at, with the first guess, that ask for the choices for stiff fields
STABLE = ((3, 0.1), (3, 0.3))
GAIN = 6  # of a calibrated grid over a cosine one, in error at equal steps
ORDINARY = 1.9  # standard deviations of the log of a sample's own estimate up to the limit: 3 % exceed it
FINER = (2, 4)  # times as many steps for samples above the limit, and for those above it again
AIM = 0.9  # of the target, for the next plan to be tried
TRIALS = 4  # plans tried on the pilot when looking for the cheapest


@dataclass(frozen=True)
class Accuracy:
    """What the pilot saw of a plan: RMS error of all samples and of the worst one, in data units."""

    rms: float
    worst: float
    samples: int
    evaluations: int  # that the pilot took, all samples and trials together


def samples_for(count: int) -> int:
    """Return how many samples make a pilot for `count` that follow."""
    return min(MOST, max(FEWEST, round(SHARE * count)))


class Pilot:
    """A field with noise and labels to try plans on; it counts the evaluations spent."""

    def __init__(
        self,
        field: VelocityField,
        x0: Tensor,
        label: Tensor | None,
        *,
        t0: float = 0.0,
        t1: float = 1.0,
        batch: int | None = None,
        reference: VelocityField | None = None,
    ) -> None:
        """Try plans on a field; the truth is that of `reference`, if the field is a coarser copy of it."""
        self.x0, self.label = x0, label
        self.batch = batch or len(x0)
        self.evaluations = 0
        self.span = (t0, t1)
        self.field, self.reference = (between(one, t0, t1) for one in (field, reference or field))
        self.active = self.field
        self.tried: dict[Plan, tuple[Tensor, float, float]] = {}

    def velocity(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Evaluate the field, `batch` samples at a time, and count."""
        self.evaluations += len(x)
        rows = [slice(start, start + self.batch) for start in range(0, len(x), self.batch)]
        return torch.cat(
            [self.active(x[row], t[row], None if label is None else label[row]) for row in rows]
        )

    def solve(self, plan: Plan) -> Tensor:
        """Return the end points of a plan; on a grid, keep its curvature and the samples' estimates."""
        self.error_quantile = math.nan
        if plan.nodes is None or plan.finer:
            return follow(plan, self.velocity, self.x0, label=self.label).x1
        method = plan.method(self.x0)
        state, arrived = method.begin(self.x0), torch.zeros(1, dtype=torch.bool)
        curvature = Curvature()
        while not arrived.all():
            x, t = method.query(state)
            velocity = self.velocity(x, t, self.label)
            self._require_finite(velocity, float(t[0]))
            curvature.add(float(t[0]), velocity)
            state, arrived = method.advance(state, x, t, velocity)
        self.curvature = curvature
        logs = state.error_estimate.cpu().double().clamp(min=1e-24).log() / 2
        self.error_quantile = float((logs.mean() + ORDINARY * logs.std()).exp())
        x1: Tensor = state.x
        return x1

    def _require_finite(self, velocity: Tensor, s: float) -> None:
        bad = ~velocity.flatten(1).isfinite().all(1)
        if bad.any():
            t = self.span[0] + (self.span[1] - self.span[0]) * s
            first = int(bad.nonzero()[0])
            raise ReflowError(
                f"the velocity of sample {first} of the pilot is not finite at t = {t:.4f}; "
                "the model is damaged or diverged"
            )

    def find_truth(self, wanted: float, *, strict: bool = True) -> None:
        """Solve on ever finer grids until two agree to the wanted error; keep end points and density.

        Raises ReflowError when they never do; if not strict, the finest of fewer grids will do.
        """
        finest = FINEST if strict else FINEST // 8
        steps = max(8, round(12 * wanted ** (-1 / 6)))  # some 18 for 0.1, 56 for 1e-4
        nodes = cosine(steps)
        before = None
        self.active = self.reference
        while steps <= finest:
            self.truth = self.solve(Plan("adams4", tuple(nodes.tolist())))
            self.finest = self.curvature
            if before is not None:
                difference = rms(self.truth - before)
                if difference <= AGREEMENT * wanted:
                    self.guess = steps / 2 * (difference / (GAIN * MARGIN * wanted)) ** (1 / 4)
                    self.active = self.field
                    return
            before, steps = self.truth, 2 * steps
            nodes = self.grid(steps, spread=0.1)
        self.active = self.field
        if not strict:
            return
        raise ReflowError(
            f"the pilot's solutions do not agree to {wanted:g} even with {FINEST} steps: the velocity "
            "is not smooth enough; ask for a larger --tolerance"
        )

    def grid(self, steps: int, spread: float) -> Tensor:
        """Return the calibrated grid of this many steps."""
        return from_density(*density(self.finest, spread), steps)

    def error(self, plan: Plan) -> Tensor:
        """Return the errors (P,) of a plan, root mean square over the event."""
        return self._try(plan)[0]

    def error_estimate(self, plan: Plan) -> float:
        """Return what few of the samples' own estimates exceed under a plan on a grid."""
        return self._try(plan)[1]

    def cost(self, plan: Plan) -> float:
        """Return the evaluations per sample that a plan took."""
        return self._try(plan)[2]

    def _try(self, plan: Plan) -> tuple[Tensor, float, float]:
        if plan not in self.tried:
            before = self.evaluations
            off = (self.solve(plan) - self.truth).flatten(1)
            spent = (self.evaluations - before) / len(off)
            self.tried[plan] = off.square().mean(1).sqrt(), self.error_quantile, spent
        return self.tried[plan]

    def accuracy(self, plan: Plan) -> Accuracy:
        """Return what the plan does on the pilot."""
        errors = self.error(plan)
        return Accuracy(rms(errors), float(errors.max()), len(errors), self.evaluations)


def calibrate(pilot: Pilot, solver: str, tolerance: float) -> tuple[Plan, Accuracy]:
    """Return the cheapest plan of a solver whose RMS error is within the tolerance, in data units.

    Raises ReflowError when the pilot finds none.
    """
    pilot.find_truth(tolerance)
    target = MARGIN * tolerance
    if solver != CALIBRATED:
        plan = _cheapest(
            pilot,
            lambda local: Plan(solver, local_tolerance=local),
            target,
            LOCAL_SHARE * tolerance,
            _next_tolerance,
        )
        return plan, pilot.accuracy(plan)
    first = max(4, round(pilot.guess))
    best = _best(pilot, CHOICES, first)
    if expected(pilot.error(best(first))) > UNSTABLE * target:
        best = _best(pilot, STABLE, first)
    plan = _cheapest(pilot, best, target, first, _next_steps)
    accuracy = pilot.accuracy(plan)
    assert plan.nodes is not None
    steps = len(plan.nodes) - 1
    finer = tuple(best(steps * times).nodes or () for times in FINER)
    return replace(plan, finer=finer, limit=pilot.error_estimate(plan)), accuracy


def gauge(pilot: Pilot, plan: Plan) -> Accuracy:
    """Return the accuracy of a plan that was given, found by solving the pilot ever more finely."""
    coarse = rms((pilot.solve(plan) - pilot.solve(Plan("adams4", tuple(cosine(64).tolist())))).flatten(1))
    pilot.find_truth(max(1e-4, 0.1 * coarse), strict=False)
    return pilot.accuracy(plan)


def expected(errors: Tensor) -> float:
    """Return the RMS error that many samples will have, from those (P,) of a few.

    Errors spread over orders of magnitude, and the largest of many is rarely among a few: so this is
    the larger of what was seen and of what a log-normal distribution with the errors' mean and variance
    has.
    """
    logs = errors.cpu().double().clamp(min=1e-12).log()
    return max(rms(errors), math.exp(float(logs.mean() + logs.var().clamp(max=1.0))))


def rms(errors: Tensor) -> float:
    """Return the root mean square."""
    return float(errors.cpu().double().square().mean().sqrt())


def _best(pilot: Pilot, choices: Sequence[tuple[int, float]], steps: float) -> Callable[[float], Plan]:
    """Return the choice whose error is the smallest with this many steps."""
    makers = [_on_grid(pilot, order, spread) for order, spread in choices]
    return min(makers, key=lambda make: expected(pilot.error(make(steps))))


def _on_grid(pilot: Pilot, order: int, spread: float) -> Callable[[float], Plan]:
    return lambda steps: Plan(f"adams{order}", tuple(pilot.grid(round(steps), spread).tolist()))


def _cheapest(
    pilot: Pilot,
    make: Callable[[float], Plan],
    target: float,
    first: float,
    following: Callable[[dict[float, float], float], float | None],
) -> Plan:
    """Return the cheapest plan whose expected error is within the target.

    `make` turns a number into a plan, `following` says which number to try next, from the errors of
    those tried, or None when a better one would hardly be cheaper.
    """
    tried: dict[float, float] = {}
    number: float | None = first
    while number is not None and number not in tried:
        enough = TRIALS if min(tried.values(), default=math.inf) <= target else 3 * TRIALS
        if len(tried) >= enough:
            break
        tried[number] = expected(pilot.error(make(number)))
        number = following(tried, target)
    good = [number for number, error in tried.items() if error <= target]
    if not good:
        raise ReflowError(
            "no plan reaches the tolerance on the pilot; ask for a larger --tolerance "
            "(or for --precision float32, if it is another)"
        )
    return min((make(number) for number in good), key=pilot.cost)


def _next_steps(tried: dict[float, float], target: float) -> float | None:
    """Return between the last number of steps that was too small and the first that was enough."""
    last, error = list(tried.items())[-1]
    guess = math.ceil(last * min(max(error / (AIM * target), 0.01), 100.0) ** (1 / 4))
    if guess > FINEST:
        return None
    bad = max((steps for steps, reached in tried.items() if reached > target), default=1)
    good = min((steps for steps, reached in tried.items() if reached <= target), default=math.inf)
    if good - bad <= 1 or (error <= target and guess >= last):
        return None
    return float(min(max(guess, bad + 1), good - 1))


def _next_tolerance(tried: dict[float, float], target: float) -> float | None:
    """Return a local tolerance in proportion to the error that the last one left."""
    last, error = list(tried.items())[-1]
    if AIM**4 * target <= error <= target:
        return None
    return last * min(max(AIM * target / error, 0.1), 10.0)
