"""Make the figures of docs/math.md from closed forms: python docs/make_math_figures.py.

The data are a mixture of two Gaussians on a line, or of three in the plane; the noise is N(0, I). All
laws of xt are mixtures then: component k of N(m, s^2) becomes N(t m, (1 - t)^2 + t^2 s^2). On a line the
flow keeps the order of particles, so a trajectory follows a quantile of the law of xt.
"""

import io
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]

IMAGES = Path(__file__).with_name("images")
INK, SOFT, BLUE, RED = "#1d2733", "#7b8794", "#1f6391", "#c2334a"
STYLE = {
    "svg.hashsalt": "reflow",
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
SHARES = np.array([0.6, 0.4])  # of the mixture on a line
CENTRES, WIDTH = np.array([-1.6, 1.6]), 0.25
PLANE_CENTRES, PLANE_WIDTH = np.array([[1.6, 0.5], [-0.4, 1.7], [0.4, -1.6]]), 0.3  # equal shares


def variance(t: float, width: float = WIDTH) -> float:
    """Return the variance of every component of xt."""
    return (1 - t) ** 2 + (t * width) ** 2


def components(x: Floats, t: float) -> Floats:
    """Return the density of each component times its share, (N, 2)."""
    square = variance(t)
    offset = x[:, None] - t * CENTRES
    return SHARES * np.exp(-(offset**2) / (2 * square)) / np.sqrt(2 * np.pi * square)


def velocity(x: Floats, t: float) -> Floats:
    """Return E[x1 - x0 | xt = x], (N,)."""
    each = CENTRES + (t * WIDTH**2 - (1 - t)) / variance(t) * (x[:, None] - t * CENTRES)
    weights = components(x, t)
    return (weights * each).sum(1) / weights.sum(1)


def trajectories(x0: Floats, times: Floats) -> Floats:
    """Return where particles (N,) are at the times (M, N): at their quantile, found by bisection."""
    states = []
    for t in times:
        low, high = np.full_like(x0, -8.0), np.full_like(x0, 8.0)
        for _ in range(60):
            middle = (low + high) / 2
            below = (SHARES * ndtr((middle[:, None] - t * CENTRES) / np.sqrt(variance(t)))).sum(1) < ndtr(
                x0
            )
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        states.append((low + high) / 2)
    return np.stack(states)


def continuity() -> Figure:
    """Draw a density, its flux, and the density a little later."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.3, 1])
    x, t, later = np.linspace(-3, 3, 241), 0.75, 0.8
    density = components(x, t).sum(1)
    flux = density * velocity(x, t)
    above.fill_between(x, density, color=BLUE, alpha=0.18, linewidth=0)
    above.plot(x, density, color=BLUE, label=f"p at t = {t}")
    above.plot(x, components(x, later).sum(1), color=RED, linestyle="--", label=f"p at t = {later}")
    above.set(ylabel="density", ylim=(0, None))
    above.legend(frameon=False)
    below.axhline(0, color=SOFT, linewidth=0.8)
    below.plot(x, flux, color=INK)
    for here in np.arange(-2.1, 2.2, 0.3):
        height = float(np.interp(here, x, flux))
        if abs(height) > 0.03:
            tip = (here + 0.5 * height, height)
            below.annotate("", tip, (here, height), arrowprops={"arrowstyle": "->", "color": BLUE})
    below.set(xlabel="x", ylabel="flux p v")
    return figure


def paths() -> Figure:
    """Draw lines of independent pairs, trajectories of the mean velocity, and lines of their pairs."""
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    first, second, third = figure.subplots(1, 3, sharey=True)
    rng, times = np.random.default_rng(3), np.linspace(0, 1, 31)
    x0 = np.sort(rng.standard_normal(28))
    x1 = rng.choice(CENTRES, 28, p=SHARES) + WIDTH * rng.standard_normal(28)
    states = trajectories(x0, times)
    _lines(first, np.array([0.0, 1.0]), np.stack([x0, x1]), "independent pairs: lines cross")
    _lines(second, times, states, "the mean velocity: trajectories bend")
    _lines(third, np.array([0.0, 1.0]), states[[0, -1]], "their ends as pairs: lines do not cross")
    first.set_ylabel("x")
    return figure


def _lines(axes: Axes, times: Floats, states: Floats, title: str) -> None:
    for particle in states.T:
        axes.plot(times, particle, color=BLUE if particle[-1] < 0 else RED, linewidth=0.9, alpha=0.75)
    axes.plot(np.zeros(states.shape[1]), states[0], ".", color=INK, markersize=4)
    axes.plot(np.ones(states.shape[1]), states[-1], ".", color=INK, markersize=4)
    axes.set(title=title, xlabel="t", ylim=(-3.4, 3.4))
    axes.title.set_fontsize(10)


def mean_velocity() -> Figure:
    """Draw lines that pass through one point, and the mean of their velocities."""
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    point, t, rng = np.array([0.35, 0.25]), 0.55, np.random.default_rng(4)
    square = variance(t, PLANE_WIDTH)
    offset = point - t * PLANE_CENTRES
    shares = np.exp(-(offset**2).sum(1) / (2 * square))
    ends = PLANE_CENTRES + t * PLANE_WIDTH**2 / square * offset  # E[x1 | xt, component]
    mean = ((shares / shares.sum()) @ ends - point) / (1 - t)
    chosen = rng.choice(3, 14, p=shares / shares.sum())
    spread = PLANE_WIDTH * (1 - t) / np.sqrt(square)  # of x1 given xt and the component
    x1 = ends[chosen] + spread * rng.standard_normal((14, 2))
    x0 = (point - t * x1) / (1 - t)
    for begin, end in zip(x0, x1, strict=True):
        axes.plot(*np.stack([begin, end]).T, color=SOFT, linewidth=0.8)
        axes.annotate("", (point + end) / 2, point, arrowprops={"arrowstyle": "->", "color": INK})
    axes.plot(*x0.T, "o", color="white", markeredgecolor=SOFT, markersize=5, label="noise x0")
    axes.plot(*x1.T, "o", color=RED, markersize=4, label="data x1")
    tip = point + mean * (1 - t) / 2  # all arrows: half of what is left of the way
    axes.annotate("", tip, point, arrowprops={"arrowstyle": "-|>", "color": BLUE, "linewidth": 3})
    axes.plot([], [], color=INK, linewidth=1, label="x1 - x0 of each")
    axes.plot([], [], color=BLUE, linewidth=3, label="their mean, v(x, t)")
    axes.legend(frameon=False, fontsize=9, loc="best")
    axes.set(xlabel="x", ylabel="y")
    return figure


FIGURES = {"continuity": continuity, "mean-velocity": mean_velocity, "paths": paths}


def main() -> None:
    for name, draw in FIGURES.items():
        with rc_context(STYLE):
            buffer = io.StringIO()
            unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            draw().savefig(buffer, format="svg", metadata=unsaid)
        lines = (line.rstrip() for line in buffer.getvalue().splitlines())
        (IMAGES / f"{name}.svg").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
