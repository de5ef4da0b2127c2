"""Explicit Runge-Kutta methods as data.

Stage i is evaluated at t + c[i] h on x + h sum_j a[i][j] k[j]; the step is x + h sum_i b[i] k[i].
Where `error` is given, h sum_i error[i] k[i] estimates the local error. Where the last row of `a`
equals `b` (FSAL), the last stage is the first of the next step.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tableau:
    """One explicit Runge-Kutta method; `dense` are weights of its continuous extension."""

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    error: tuple[float, ...] | None = None
    dense: tuple[float, ...] | None = None

    @property
    def evaluations_per_step(self) -> int:
        """Network evaluations of one step on a fixed grid."""
        return len(self.b)


EULER = Tableau(order=1, c=(0.0,), a=((),), b=(1.0,))

MIDPOINT = Tableau(order=2, c=(0.0, 0.5), a=((), (0.5,)), b=(0.0, 1.0))

HEUN = Tableau(order=2, c=(0.0, 1.0), a=((), (1.0,)), b=(0.5, 0.5))

RK4 = Tableau(
    order=4,
    c=(0.0, 0.5, 0.5, 1.0),
    a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)

# Dormand & Prince 1980; dense output of Hairer, Norsett & Wanner, Solving ODEs I, section II.6.
DOPRI5 = Tableau(
    order=5,
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    error=(
        35 / 384 - 5179 / 57600,
        0.0,
        500 / 1113 - 7571 / 16695,
        125 / 192 - 393 / 640,
        -2187 / 6784 + 92097 / 339200,
        11 / 84 - 187 / 2100,
        -1 / 40,
    ),
    dense=(
        -12715105075 / 11282082432,
        0.0,
        87487479700 / 32700410799,
        -10690763975 / 1880347072,
        701980252875 / 199316789632,
        -1453857185 / 822651844,
        69997945 / 29380423,
    ),
)
