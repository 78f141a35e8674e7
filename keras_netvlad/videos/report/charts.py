"""Charts as HTML: the marks are SVG that stretches with the page, and the labels are text of constant size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from keras_netvlad.videos.report.markup import Markup, element

Point = tuple[float, float]
# More names of bars would run into each other: on a page, and on a phone.
MOST_NAMES, MOST_NAMES_ON_PHONE = 36, 12


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: Name of the line, for the text that appears over a point.
        points: `(x, y)`, from left to right.
        style: CSS class.
    """

    name: str
    points: Sequence[Point]
    style: str


def line_chart(
    lines: Sequence[Line], description: str, x_name: str, limits: tuple[float, float] | None = None
) -> Markup:
    """Draws lines over integers, such as epochs.

    Args:
        lines: The lines. Points that are not finite must be left out.
        description: Text that describes the chart to readers who do not see it.
        x_name: Name of the integers on the x axis.
        limits: Values that the vertical axis must include.

    Returns:
        The chart.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return element("p", "There are no values to draw.", class_="note")
    xs, ys = {x for x, _ in points}, [y for _, y in points]
    y_ticks = ticks(min([*ys, *(limits or ())]), max([*ys, *(limits or ())]))
    first, last = min(xs), max(xs)
    width, low, high = max(last - first, 1), y_ticks[0], y_ticks[-1]

    def place(point: Point) -> tuple[float, float]:
        return 100 * (point[0] - first) / width, 100 - 100 * (point[1] - low) / (high - low)

    paths = [
        element("path", d="M" + "L".join(_pair(place(point)) for point in line.points), class_=f"line {line.style}")
        for line in lines
        # A line of one point would be invisible; the round cap of a line of no length is a dot.
        if line.points
    ]
    marks = [
        element(
            "rect",
            element(
                "title", f"{x_name} {x:g}", [f"\n{n.name} {y:.4g}" for n in lines for at, y in n.points if at == x]
            ),
            x=f"{place((x, 0))[0] - 50 / width:.2f}",
            y=0,
            width=f"{100 / width:.2f}",
            height=100,
            class_="hover",
        )
        for x in sorted(xs)
    ]
    x_ticks = [x for x in ticks(first, last, 6) if x.is_integer() and first <= x <= last] or [first]
    return _frame(
        [*paths, *marks],
        description,
        [(place((x, 0))[0], f"{x:g}") for x in x_ticks],
        [(100 - place((0, y))[1], _shortest(y, y_ticks)) for y in y_ticks],
        x_name,
    )


def bar_chart(values: Sequence[float], names: Sequence[str], description: str, x_name: str, line: float) -> Markup:
    """Draws values of 0 or more as bars, in percent, with a dashed line.

    Args:
        values: Shares, from 0 to 1.
        names: A name for each bar, for the text that appears over it.
        description: Text that describes the chart to readers who do not see it.
        x_name: Name of the bars on the x axis.
        line: Value at which to draw the line.

    Returns:
        The chart.
    """
    y_ticks = ticks(0, 100 * max([*values, line]), 4)
    high, width = y_ticks[-1], 100 / len(values)
    bars = [
        element(
            "rect",
            element("title", f"{name}: {value:.1%}"),
            x=f"{number * width + 0.1 * width:.3f}",
            y=f"{100 - 1e4 * value / high:.3f}",
            width=f"{0.8 * width:.3f}",
            height=f"{1e4 * value / high:.3f}",
            class_="bar",
        )
        for number, (name, value) in enumerate(zip(names, values, strict=True))
    ]
    height = f"{100 - 1e4 * line / high:.3f}"
    even = element("line", x1=0, x2=100, y1=height, y2=height, class_="even")
    stride = max(1, math.ceil(len(values) / MOST_NAMES))
    return _frame(
        [*bars, even],
        description,
        [((number + 0.5) * width, names[number]) for number in range(0, len(values), stride)],
        [(100 * y / high, f"{_shortest(y, y_ticks)}%") for y in y_ticks],
        x_name,
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns about `count` round numbers, the first at most `low` and the last at least `high`.

    Example:

    >>> ticks(0.13, 0.87)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(1, 30)
    [0.0, 10.0, 20.0, 30.0]
    """
    span = high - low if high > low else max(abs(high), 1.0)
    magnitude = 10.0 ** math.floor(math.log10(span / count))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude * count >= span * 0.999)
    # Without the tolerance, a value that is a multiple of the step except for rounding would get another tick.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _frame(marks, description, x_ticks, y_ticks, x_name):
    """Returns a chart with axes. Places of ticks are in percent, from the left and from the bottom."""
    lines = [element("line", x1=0, x2=100, y1=f"{100 - y:.2f}", y2=f"{100 - y:.2f}", class_="grid") for y, _ in y_ticks]
    drawing = element("svg", lines, marks, viewBox="0 0 100 100", preserveAspectRatio="none", aria_hidden="true")
    labels = [element("span", text, class_="y", style=f"bottom:{y:.2f}%") for y, text in y_ticks]
    stride = math.ceil(len(x_ticks) / MOST_NAMES_ON_PHONE)
    labels += [
        element("span", text, class_="x minor" if number % stride else "x", style=f"left:{x:.2f}%")
        for number, (x, text) in enumerate(x_ticks)
    ]
    labels.append(element("span", x_name, class_="axis"))
    return element("div", drawing, labels, class_="plot", role="img", aria_label=description)


def _pair(point):
    return f"{point[0]:.2f} {point[1]:.2f}"


def _shortest(value, values):
    """Returns a number with the digits that tell it from its neighbors."""
    step = values[1] - values[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{digits + (round(step * 10**digits, 6) % 1 > 0)}f}"
