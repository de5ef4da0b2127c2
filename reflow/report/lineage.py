"""Which artifact was made from which, as inline SVG: models on the left, pairs on the right, in order.

Parents are known by digest; those that the run lacks are drawn, too, with a dashed frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from reflow.report.run import Entry, Run
from reflow.report.tables import STAGES

BOX_WIDTH, BOX_HEIGHT, PITCH = 180, 62, 84
LANES = {"model": 24, "pairs": 252}  # left edges
WIDTH = 440
SHORT, LETTERS = 12, 18  # digits of a digest, letters of a name that are shown
OTHERS = {"data": "training data"}  # what foreign parents are, by role


@dataclass(frozen=True)
class _Box:
    name: str
    what: str
    digest: str
    lane: str
    row: int
    foreign: bool = False

    @property
    def x(self) -> int:
        return LANES[self.lane]

    @property
    def y(self) -> int:
        return self.row * PITCH + 4


@dataclass(frozen=True)
class _Arrow:
    role: str
    start: _Box
    end: _Box


def lineage_graph(run: Run, prefix: str = "") -> Markup:
    """Return the graph of a run; `prefix` stands before its anchors."""
    boxes: dict[str, _Box] = {}
    arrows: list[_Arrow] = []
    for entry in run.entries:
        for role, digest in sorted(entry.header.parents.items()):
            if digest not in boxes:
                boxes[digest] = _foreign(role, digest, len(boxes))
        box = _own(entry, len(boxes))
        boxes[entry.digest] = box
        arrows += [
            _Arrow(role, boxes[digest], box) for role, digest in sorted(entry.header.parents.items())
        ]
    parts = [part for arrow in arrows for part in _drawn(arrow, list(boxes.values()), f"{prefix}tip")]
    parts += [part for box in boxes.values() for part in _framed(box)]
    return Markup(
        '<svg class="ancestry" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<defs><marker id="{}tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path class="tip" d="M0 .5L8 4 0 7.5z"/></marker></defs>{}</svg>'
    ).format(
        WIDTH, len(boxes) * PITCH - PITCH + BOX_HEIGHT + 8, _heard(arrows), prefix, Markup("").join(parts)
    )


def _own(entry: Entry, row: int) -> _Box:
    return _Box(entry.name, STAGES[entry.header.stage], entry.digest, entry.header.kind, row)


def _foreign(role: str, digest: str, row: int) -> _Box:
    lane = "pairs" if "pairs" in role else "model"
    what = OTHERS.get(role, "outside this run")
    return _Box(role, what, digest, lane, row, foreign=True)


def _framed(box: _Box) -> Iterator[Markup]:
    kind = "foreign" if box.foreign else box.lane
    yield Markup(
        '<rect class="box {}" x="{}" y="{}" width="{}" height="{}" rx="8"><title>{}</title></rect>'
    ).format(kind, box.x, box.y, BOX_WIDTH, BOX_HEIGHT, box.name)
    lines = (("strong", _shortened(box.name)), ("soft", box.what), ("digest", box.digest[:SHORT]))
    for number, (style, text) in enumerate(lines):
        yield Markup('<text class="{}" x="{}" y="{}">{}</text>').format(
            style, box.x + 14, box.y + 20 + 17 * number, text
        )


def _shortened(name: str) -> str:
    """Return a name that fits into a box: of a long one, its beginning and its end."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 8]}…{name[-7:]}"


def _drawn(arrow: _Arrow, boxes: list[_Box], tip: str) -> Iterator[Markup]:
    start, end = arrow.start, arrow.end
    if start.lane == end.lane == "model":
        between = [box for box in boxes if box.lane == "model" and start.row < box.row < end.row]
        path = _around(start, end) if between else _down(start, end)
        if not between:
            x, y = start.x + BOX_WIDTH // 2 + 8, (start.y + BOX_HEIGHT + end.y) / 2 + 4
            yield Markup('<text class="soft" x="{}" y="{:.0f}">{}</text>').format(x, y, arrow.role)
    elif start.lane == end.lane:
        path = _down(start, end)
    else:
        path = _across(start, end)
    yield Markup('<path class="arrow" d="{}" marker-end="url(#{})"/>').format(path, tip)


def _down(start: _Box, end: _Box) -> str:
    return f"M{start.x + BOX_WIDTH // 2} {start.y + BOX_HEIGHT}V{end.y - 2}"


def _around(start: _Box, end: _Box) -> str:
    top, bottom = start.y + 40, end.y + 22
    return f"M{start.x} {top}C4 {top} 4 {bottom} {end.x - 2} {bottom}"


def _across(start: _Box, end: _Box) -> str:
    """Return the way through the channel between models and pairs."""
    right = start.lane == "model"
    from_x, to_x = (start.x + BOX_WIDTH, end.x - 2) if right else (start.x, end.x + BOX_WIDTH + 2)
    middle, top, bottom = (from_x + to_x) / 2, start.y + 42, end.y + 20
    return f"M{from_x} {top}C{middle} {top} {middle} {bottom} {to_x} {bottom}"


def _heard(arrows: list[_Arrow]) -> str:
    ways = [f"{arrow.end.name} from {arrow.start.name} ({arrow.role})" for arrow in arrows]
    return f"Which artifact was made from which: {'; '.join(ways)}. The table has the digests."
