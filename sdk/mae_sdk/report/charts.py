"""Charts as static SVG. Colors are variables of the page's style, so both color schemes show them.

Every chart says in words what it shows (``role="img"`` with a label); the numbers are in a table
beside it. Long curves are thinned: of each narrow strip the lowest and the highest value stay.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mae_skill.spelling import count_of
from markupsafe import Markup

from mae_sdk.report.markup import element, number

Point = tuple[float, float]

COLORS = 8
"""Colors of the page's style, ``--c0`` …, that tell series and classes apart."""
EDGE = 12
"""Pixels from the right edge within which the number of a tick ends at it."""
MAX_POINTS = 400
"""Of a curve as drawn."""


@dataclass
class Series:
    """One curve.

    Attributes:
        points: (x, y) with rising x; only finite ones are drawn.
        faint: drawn thin and pale, as the steps behind an epoch's mean.
        dots: mark every point.
        label: beside the curve in the legend; empty: no legend entry.
    """

    label: str
    points: Sequence[Point]
    color: int = 0
    faint: bool = False
    dots: bool = False
    dashed: bool = False


class Frame(NamedTuple):
    """The area of a chart in pixels, and the values at its edges."""

    left: float
    top: float
    right: float
    bottom: float
    x0: float
    x1: float
    y0: float
    y1: float
    log: bool = False

    def x(self, value: float) -> float:
        return self.left + (value - self.x0) / (self.x1 - self.x0) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high, at = self.y0, self.y1, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, self.y0))
        return self.bottom - (at - low) / (high - low) * (self.bottom - self.top)


@dataclass
class Marker:
    """A dashed line at x with a word: the best epoch, another attempt."""

    x: float
    label: str = ""


@dataclass
class Options:
    """What a line chart is called and how it is drawn.

    Attributes:
        legend: name a single curve too; several always have a legend.
    """

    title: str
    x: str = "step"
    y: str = ""
    log: bool = False
    zero: bool = False
    width: int = 540
    height: int = 250
    markers: Sequence[Marker] = field(default_factory=tuple)
    legend: bool = False


def lines(series: Sequence[Series], options: Options) -> Markup | None:
    """Curves over a common axis; None where there is nothing to draw."""
    drawn = [Series(**{**vars(one), "points": finite(one.points)}) for one in series]
    if options.log:
        drawn = [
            Series(**{**vars(one), "points": [p for p in one.points if p[1] > 0]}) for one in drawn
        ]
    named = [one for one in drawn if one.points]
    drawn = _told_apart(named)
    if not drawn:
        return None

    frame = _frame(drawn, options)
    whole = all(float(x).is_integer() for one in drawn for x, _ in one.points)
    parts = _axes(frame, options, whole)
    for marker in options.markers:
        if frame.x0 <= marker.x <= frame.x1:
            parts += _marker(frame, marker)
    parts += [_curve(frame, one) for one in sorted(drawn, key=lambda one: not one.faint)]
    # A curve that stands for two has both names, and nothing else says so.
    legend = _legend([one for one in drawn if one.label], options.legend or len(drawn) < len(named))
    said = "; ".join(
        f"{one.label or options.y} from {number(one.points[0][1])} to {number(one.points[-1][1])}"
        for one in drawn
        if not one.faint or len(drawn) == 1
    )
    svg = _svg(f"{options.title}: {said}", options.width, options.height, *parts)
    return element("div", svg, legend, _cut(frame, drawn), class_="chart")


def _cut(frame: Frame, drawn: Sequence[Series]) -> Markup | None:
    """That spikes of raw steps are cut at the edge of the frame, and how far they go."""
    values = [y for one in drawn if one.faint for _, y in one.points]
    beyond = [y for y in values if not frame.y0 <= y <= frame.y1]
    if not beyond or frame.log:
        return None
    ends = f"from {number(min(values))} to {number(max(values))}"
    verb = "lies" if len(beyond) == 1 else "lie"
    text = f"{len(beyond):,} of the {len(values):,} single steps {verb} beyond the frame: {ends}."
    return element("p", text, class_="caption")


def _told_apart(series: Sequence[Series]) -> list[Series]:
    """Curves that lie on each other as one with both names: the upper one would hide the others."""
    kept: list[Series] = []
    for one in series:
        twin = next((other for other in kept if _coincide(other.points, one.points)), None)
        if twin is None or not (one.label and twin.label) or one.faint or twin.faint:
            kept.append(one)
        else:
            twin.label += f" = {one.label}"
    return kept


def _coincide(one: Sequence[Point], other: Sequence[Point]) -> bool:
    return len(one) == len(other) and all(
        a[0] == b[0] and math.isclose(a[1], b[1], rel_tol=1e-6, abs_tol=1e-9)
        for a, b in zip(one, other, strict=True)
    )


def finite(points: Sequence[Point]) -> list[Point]:
    """The points that can be drawn."""
    return [
        (float(x), float(y))
        for x, y in points
        if _is_number(x) and _is_number(y) and abs(y) < 1e300
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def thinned(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most about `limit` points that look like all: of each strip its lowest and highest."""
    if len(points) <= limit:
        return list(points)
    strips = limit // 2
    kept: list[Point] = []
    for strip in range(strips):
        part = points[strip * len(points) // strips : (strip + 1) * len(points) // strips]
        if part:
            ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
            kept += sorted(ends)
    return [points[0], *kept, points[-1]]


def _frame(drawn: Sequence[Series], options: Options) -> Frame:
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points]
    x0, x1 = min(xs), max(xs)
    if x0 == x1:
        margin = max(0.5, abs(x0) * 1e-6)  # half a step is lost in a time stamp
        x0, x1 = x0 - margin, x1 + margin
    y0, y1 = min(ys), max(ys)
    # Single spikes of raw steps shall not flatten everything else.
    faint = sorted(y for one in drawn if one.faint for _, y in one.points)
    if len(faint) > 50 and not options.log:
        solid = [y for one in drawn if not one.faint for _, y in one.points]
        y1 = max([faint[int(0.995 * (len(faint) - 1))], *solid])
        y0 = min([faint[int(0.005 * (len(faint) - 1))], *solid])
    if options.log:
        y0, y1 = 10 ** math.floor(math.log10(y0)), 10 ** math.ceil(math.log10(y1))
        y1 = y1 * 10 if y0 == y1 else y1
    else:
        y0 = min(0.0, y0) if options.zero else y0
        pad = (y1 - y0) * 0.06 or abs(y1) * 0.1 or 0.5
        y0, y1 = (y0 if options.zero and y0 == 0 else y0 - pad), y1 + pad
    return Frame(52, 12, options.width - 14, options.height - 34, x0, x1, y0, y1, options.log)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values between `low` and `high`, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    found = [(first + i) * step for i in range(int((high - low) / step) + 2)]
    return [round(value, 12) for value in found if value <= high + step * 1e-9]


def labels(values: Sequence[float]) -> list[str]:
    """Ticks in words, all with as many decimals as tell them apart exactly: rounded ones would
    stand at unequal steps."""
    if len(values) < 2:
        return [number(value, 4) for value in values]
    largest = max(abs(value) for value in values)
    step = min(abs(b - a) for a, b in itertools.pairwise(values))
    if not step or largest >= 1e6 or largest < 1e-3:
        digits = 2 + max(0, math.ceil(math.log10(largest / step))) if step else 4
        return [number(value, min(digits, 12)) for value in values]
    decimals = next(
        (places for places in range(13) if abs(round(step, places) - step) <= step * 1e-6), 12
    )
    return [f"{value + 0.0:,.{decimals}f}" for value in values]


def _decades(low: float, high: float) -> list[float]:
    first, last = round(math.log10(low)), round(math.log10(high))
    stride = max(1, (last - first) // 5)
    return [10.0**power for power in range(first, last + 1, stride)]


def _axes(frame: Frame, options: Options, whole: bool = False) -> list[Markup]:
    """Lines, ticks and the name of the x axis; `whole`: x counts, so no tick is a fraction."""
    parts = []
    values = _decades(frame.y0, frame.y1) if frame.log else ticks(frame.y0, frame.y1, 4)
    words = [number(one, 3) for one in values] if frame.log else labels(values)
    for value, word in zip(values, words, strict=True):
        y = frame.y(value)
        parts.append(element("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="grid"))
        parts.append(_text(word, frame.left - 7, y + 3.5, anchor="end"))
    places = [
        value for value in ticks(frame.x0, frame.x1, 6) if not whole or float(value).is_integer()
    ]
    for value, word in zip(places, labels(places), strict=True):
        x = frame.x(value)
        anchor = "end" if x > frame.right - EDGE else "middle"  # a long number is not cut off
        parts.append(_text(word, x + 4 * (anchor == "end"), frame.bottom + 15, anchor))
    parts.append(
        element(
            "line",
            x1=frame.left,
            x2=frame.right,
            y1=frame.bottom,
            y2=frame.bottom,
            class_="axis",
        )
    )
    middle = (frame.left + frame.right) / 2
    parts.append(_text(options.x, middle, frame.bottom + 30, anchor="middle"))
    return parts


def _curve(frame: Frame, one: Series) -> Markup:
    points = thinned(one.points)
    path = " ".join(
        f"{frame.x(x):.1f},{min(max(frame.y(y), frame.top), frame.bottom):.1f}" for x, y in points
    )
    names = ["line", f"s{one.color % COLORS}"]
    names += ["faint"] * one.faint + ["dashed"] * one.dashed
    drawn = [element("polyline", points=path, class_=" ".join(names))]
    if one.dots or len(points) == 1:
        drawn += [
            element("circle", cx=frame.x(x), cy=frame.y(y), r=2.6, class_=f"f{one.color % COLORS}")
            for x, y in points[:200]
        ]
    return element("g", *drawn)


def _marker(frame: Frame, marker: Marker) -> list[Markup]:
    x = frame.x(marker.x)
    side = "end" if x > (frame.left + frame.right) / 2 else "start"
    return [
        element("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="marker"),
        _text(marker.label, x + (-4 if side == "end" else 4), frame.top + 9, anchor=side),
    ]


def _text(content: str, x: float, y: float, anchor: str = "start", class_: str = "") -> Markup:
    return element("text", content, x=x, y=y, text_anchor=anchor, class_=class_ or None)


def _svg(label: str, width: float, height: float, *parts: Any) -> Markup:
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        style=f"max-width:{width:g}px",
    )


def _legend(series: Sequence[Series], of_one: bool = False) -> Markup | None:
    if not series or (len(series) < 2 and not of_one):
        return None
    items = [
        element(
            "span",
            element(
                "i",
                class_=f"key b{one.color % COLORS}" + " faint" * one.faint + " dashed" * one.dashed,
            ),
            one.label,
        )
        for one in series
    ]
    return element("p", *items, class_="legend", aria_hidden="true")


@dataclass
class Dot:
    """A point of a scatter plot; ``group`` colors it, ``title`` is its tooltip."""

    x: float
    y: float
    group: int | None = None
    title: str = ""
    strong: bool = False


def scatter(
    dots: Sequence[Dot],
    groups: Sequence[str],
    title: str,
    *,
    x: str = "",
    y: str = "",
    axes: bool = True,
    width: int = 540,
    height: int = 380,
    line: Sequence[Point] = (),
    color: int = 1,
) -> Markup | None:
    """Points; beyond `COLORS` groups, shapes tell them apart too.

    Args:
        line: a polyline through some of them, as a Pareto front.
        color: of that line.
    """
    dots = [dot for dot in dots if _is_number(dot.x) and _is_number(dot.y)]
    if not dots:
        return None
    ends = []
    for values in ([dot.x for dot in dots], [dot.y for dot in dots]):
        pad = (max(values) - min(values)) * 0.06 or abs(values[0]) * 0.1 or 0.5
        ends += [min(values) - pad, max(values) + pad]
    margin = (52, 12, width - 14, height - 34) if axes else (6, 6, width - 6, height - 6)
    frame = Frame(*margin, ends[0], ends[1], ends[2], ends[3])

    whole = all(float(dot.x).is_integer() for dot in dots)
    parts = _axes(frame, Options(title, x=x), whole) if axes else []
    if axes and y:
        parts.append(_text(y, frame.left, frame.top - 2))
    if line:
        path = " ".join(f"{frame.x(px):.1f},{frame.y(py):.1f}" for px, py in line)
        parts.append(element("polyline", points=path, class_=f"line s{color} dashed"))
    parts += [_dot(frame, dot) for dot in dots]
    said = f"{title}: {len(dots)} points" + (f" in {len(groups)} groups" if groups else "")
    svg = _svg(said, width, height, *parts)
    shown = [
        element("span", element("i", class_=f"key dot b{i % COLORS} shape{i // COLORS % 3}"), name)
        for i, name in enumerate(groups[:24])
    ]
    if len(groups) > 24:
        shown.append(element("span", f"and {len(groups) - 24} more"))
    legend = element("p", *shown, class_="legend") if len(groups) > 1 else None
    return element("div", svg, legend, class_="chart")


def _dot(frame: Frame, dot: Dot) -> Markup:
    cx, cy, r = frame.x(dot.x), frame.y(dot.y), 6.0 if dot.strong else 3.4
    group = dot.group or 0
    name = f"dot f{group % COLORS}" if dot.group is not None else "dot plain"
    name += " strong" if dot.strong else ""
    title = element("title", dot.title) if dot.title else None
    shape = group // COLORS % 3
    if shape == 1:
        return element("rect", title, x=cx - r, y=cy - r, width=2 * r, height=2 * r, class_=name)
    if shape == 2:
        corners = f"{cx:.1f},{cy - r:.1f} {cx + r:.1f},{cy + r:.1f} {cx - r:.1f},{cy + r:.1f}"
        return element("polygon", title, points=corners, class_=name)
    return element("circle", title, cx=cx, cy=cy, r=r, class_=name)


def reliability(
    bins: Sequence[Mapping[str, Any]],
    width: int = 380,
    height: int = 300,
    *,
    unit: str = "image",
    several: bool = False,
) -> Markup | None:
    """Accuracy over confidence, a bar for each bin that holds images, beside the diagonal; of
    several labels the share that has the label over its probability.

    Args:
        bins: ``confidence, accuracy, images`` each, in 0…1.
        unit: what a bin counts.
        several: of a model of several labels.
    """
    across, up = ("probability", "share with the label") if several else ("confidence", "accuracy")
    held = [one for one in bins if one.get("images")]
    if not held:
        return None
    frame = Frame(52, 12, width - 14, height - 34, 0.0, 1.0, 0.0, 1.0)
    parts = _axes(frame, Options("", x=across))
    wide = (frame.right - frame.left) / max(len(bins), 1)
    most = max(one["images"] for one in held)
    what = "have the label" if several else "right"
    for place, one in enumerate(bins):
        if not one.get("images"):
            continue
        y = frame.y(float(one["accuracy"]))
        weight = 0.25 + 0.75 * math.sqrt(one["images"] / most)
        said = (
            f"{across} {one['confidence']:.2f}: {100 * one['accuracy']:.0f} % {what}, "
            f"{count_of(one['images'], unit)}"
        )
        parts.append(
            element(
                "rect",
                element("title", said),
                x=frame.left + place * wide + 1,
                y=y,
                width=wide - 2,
                height=max(frame.bottom - y, 1.0),
                class_="f0",
                fill_opacity=f"{weight:.2f}",
            )
        )
    parts.append(
        element(
            "line",
            x1=frame.left,
            y1=frame.bottom,
            x2=frame.right,
            y2=frame.top,
            class_="marker",
        )
    )
    parts.append(_text(up, frame.left, frame.top - 2))
    label = f"Reliability: {up} over {across}; on the dashed line both are equal"
    return element("div", _svg(label, width, height, *parts), class_="chart")


@dataclass
class Axis:
    """A column of a parallel-coordinates chart.

    Attributes:
        values: one for each row; None where the row has none.
        log: spread on a log scale.
    """

    name: str
    values: Sequence[Any]
    log: bool = False


def parallel(
    columns: Sequence[Axis], goodness: Sequence[float | None], best: int | None, title: str
) -> Markup | None:
    """One line per row across all columns.

    Args:
        goodness: of each row in 0…1, by which its line is colored; None: without a value.
        best: the row that is drawn on top.
    """
    rows = range(len(goodness))
    if len(columns) < 2 or len(rows) < 2:
        return None
    width, height, top, bottom = max(540, 118 * len(columns)), 284, 50, 250
    gap = (width - 130) / max(len(columns) - 1, 1)
    places: list[list[float | None]] = []
    parts: list[Markup] = []
    for number_of, column in enumerate(columns):
        x = 65 + gap * number_of
        heights, labels = _heights(column, top, bottom)
        places.append(heights)
        parts.append(element("line", x1=x, x2=x, y1=top, y2=bottom, class_="axis"))
        short = column.name.rsplit(".", 1)[-1]
        y_head = 16.0 if number_of % 2 == 0 else 26.0
        parts.append(_text(short, x, y_head, anchor="middle", class_="head"))
        parts += [_text(word, x + 4, y + 3.5) for word, y in labels]
    order = sorted(rows, key=lambda row: (row == best, goodness[row] or 0.0))
    for row in order:
        at = [(65 + gap * i, places[i][row]) for i in range(len(columns))]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at if y is not None)
        value = goodness[row]
        name = "line best" if row == best else "line none" if value is None else "line trial"
        shade = None if value is None or row == best else f"{0.3 + 0.6 * value:.2f}"
        parts.append(
            element(
                "polyline",
                element("title", f"trial {row}"),
                points=path,
                class_=name,
                stroke_opacity=shade,
            )
        )
    svg = _svg(
        f"{title}: {count_of(len(rows), 'trial')} over {count_of(len(columns), 'column')}",
        width,
        height,
        *parts,
    )
    # On a narrow screen it is scrolled, not shrunk until nothing can be read.
    return element(
        "div", svg, class_="chart wide scroll", tabindex=0, role="region", aria_label=title
    )


def _heights(
    column: Axis, top: float, bottom: float
) -> tuple[list[float | None], list[tuple[str, float]]]:
    known = [value for value in column.values if value is not None]
    if all(_is_number(value) for value in known) and known:
        low, high = float(min(known)), float(max(known))
        log = column.log and low > 0
        scale = math.log10 if log else float
        span = (scale(high) - scale(low)) or 1.0
        heights = [
            None if v is None else bottom - (scale(float(v)) - scale(low)) / span * (bottom - top)
            for v in column.values
        ]
        if low == high:
            return [None if h is None else (top + bottom) / 2 for h in heights], [
                (number(low, 3), (top + bottom) / 2)
            ]
        return heights, [(number(low, 3), bottom + 10), (number(high, 3), top - 10)]
    words = sorted({str(value) for value in known})
    step = (bottom - top) / max(len(words) - 1, 1)
    where = {word: bottom - step * i for i, word in enumerate(words)}
    heights = [None if v is None else where[str(v)] for v in column.values]
    return heights, [(word[:14], where[word]) for word in words[:8]]
