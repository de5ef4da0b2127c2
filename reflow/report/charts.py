"""Line charts as inline SVG whose colours are those of the page, in light, dark and print.

A series is drawn in colour `style` of style.css with a mark of MARKS; a chart is about 420 units wide, so
that its text stays legible on a telephone. The same input gives the same text.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 420, 290
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 12, 46  # margins
STYLES = 6  # colours of style.css
APART_X, APART_Y = 26, 22  # least distance of tick labels
MARKS = (  # around (0, 0)
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-5L5 0 0 5-5 0z",
    "M0-5L4.6 3.4h-9.2z",
    "M0 5L4.6-3.4h-9.2z",
    "M-1.5-5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
)


@dataclass(frozen=True)
class Series:
    """A named line through points (x, y), with a mark at each of them unless there are too many."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int
    mark: int | None = None
    dashed: bool = False

    @property
    def colour(self) -> str:
        """Class of the colour."""
        return f"s{self.style % STYLES}"

    @property
    def shape(self) -> str | None:
        """Path of the mark."""
        return None if self.mark is None else MARKS[self.mark % len(MARKS)]


@dataclass(frozen=True)
class Axis:
    """What an axis shows; `ticks` are chosen where none are given."""

    label: str
    log: bool = False
    ticks: Sequence[float] | None = None


@dataclass(frozen=True)
class Chart:
    """A drawing with its title and the series of its legend."""

    title: str
    svg: Markup
    series: Sequence[Series]
    rule: str | None


@dataclass(frozen=True)
class _Scale:
    """A map from values to places on the paper."""

    axis: Axis
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (self.bent(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def bent(self, value: float) -> float:
        return math.log10(value) if self.axis.log else value

    def ticks(self, apart: float) -> list[float]:
        """Return the values to label: those wanted, as far as they stand `apart`."""
        if self.axis.ticks is not None:
            chosen = sorted(self.axis.ticks)
        elif self.axis.log and self.high - self.low > 0.7:
            chosen = _decades(10**self.low, 10**self.high)
        elif self.axis.log:
            chosen = _steps(10**self.low, 10**self.high)
        else:
            chosen = _steps(self.low, self.high)
        return _apart(chosen, self, apart)


def chart(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    rule: tuple[str, float] | None = None,
    tell: Callable[[float], str] = "{:g}".format,
) -> Chart:
    """Return a chart; `rule` is a dotted horizontal line with its name, `tell` writes values."""
    rules = [] if rule is None else [rule[1]]
    across = _scale(x, [point[0] for line in series for point in line.points], LEFT, WIDTH - RIGHT, 0.03)
    up = _scale(
        y, [point[1] for line in series for point in line.points] + rules, HEIGHT - BOTTOM, TOP, 0.06
    )
    parts = [
        *_frame(across, up, tell),
        *(_rule(up, value) for value in rules),
        *(part for line in series for part in _line(line, across, up, tell)),
    ]
    svg = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, _heard(title, series, x, rule, tell), Markup("").join(parts)
    )
    return Chart(title, svg, series, None if rule is None else rule[0])


def _scale(axis: Axis, values: Iterable[float], start: float, end: float, margin: float) -> _Scale:
    found = [math.log10(value) if axis.log else value for value in values]
    low, high = min(found), max(found)
    room = margin * (high - low) or 0.5
    return _Scale(axis, low - room, high + room, start, end)


def _decades(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten, or only the powers where these are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 3 else (1,)
    return [value for k in powers for f in factors if low <= (value := float(f"{f}e{k}")) <= high]


def _steps(low: float, high: float) -> list[float]:
    """Return about five even steps of 1, 2 or 5 times a power of ten."""
    power = math.floor(math.log10((high - low) / 5))
    step = next(float(f"{f}e{power}") for f in (1, 2, 5, 10) if (high - low) / float(f"{f}e{power}") <= 6)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _apart(values: Sequence[float], scale: _Scale, least: float) -> list[float]:
    chosen: list[float] = []
    for value in reversed(values):
        if not chosen or abs(scale(value) - scale(chosen[-1])) >= least:
            chosen.append(value)
    return chosen[::-1]


def _frame(across: _Scale, up: _Scale, tell: Callable[[float], str]) -> list[Markup]:
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in up.ticks(APART_Y):
        y = up(value)
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y, right))
        parts.append(
            Markup('<text x="{}" y="{:.1f}" class="end">{}</text>').format(LEFT - 7, y + 4, tell(value))
        )
    for value in across.ticks(APART_X):
        x = across(value)
        parts.append(Markup('<path class="axis" d="M{:.1f} {}v5"/>').format(x, floor))
        parts.append(
            Markup('<text x="{:.1f}" y="{}" class="mid">{}</text>').format(x, floor + 18, tell(value))
        )
    parts.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, floor, right))
    middle = (LEFT + right) / 2
    parts.append(
        Markup('<text x="{}" y="{}" class="mid soft">{}</text>').format(
            middle, HEIGHT - 6, across.axis.label
        )
    )
    return parts


def _rule(up: _Scale, value: float) -> Markup:
    return Markup('<path class="rule" d="M{} {:.1f}H{}"/>').format(LEFT, up(value), WIDTH - RIGHT)


def _line(line: Series, across: _Scale, up: _Scale, tell: Callable[[float], str]) -> list[Markup]:
    places = [(across(x), up(y)) for x, y in line.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dash = " dashed" if line.dashed else ""
    parts = [Markup('<path class="line {}{}" d="M{}"/>').format(line.colour, dash, path)]
    if line.shape is not None:
        parts += [
            Markup(
                '<path class="mark {}" d="{}" transform="translate({:.1f} {:.1f})"><title>{}</title></path>'
            ).format(line.colour, line.shape, *place, f"{line.name}: {tell(y)} at {tell(x)}")
            for place, (x, y) in zip(places, line.points, strict=True)
        ]
    return parts


def _heard(
    title: str,
    series: Sequence[Series],
    x: Axis,
    rule: tuple[str, float] | None,
    tell: Callable[[float], str],
) -> str:
    """Return what the chart says, for those who hear it: the ends of every line."""
    lines = []
    for line in series:
        (x0, y0), (x1, y1) = line.points[0], line.points[-1]
        first = f"{line.name}: {tell(y0)} at {tell(x0)}"
        lines.append(first if len(line.points) == 1 else f"{first}, {tell(y1)} at {tell(x1)}")
    if rule is not None:
        lines.append(f"{rule[0]}: {tell(rule[1])}")
    return f"{title} against {x.label}. {'; '.join(lines)}."
