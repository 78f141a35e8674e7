"""Blocks that several sections of the report share: sections, tables, and numbers as text."""

import math
from collections.abc import Sequence

from keras_netvlad.videos.report.markup import Child, Markup, element

LONGEST_NAME = 40
MISSING = "\N{EN DASH}"


def section(name: str, title: str, *children: Child) -> Markup:
    """Returns a section with a heading. The navigation leads to `#name`."""
    return element(
        "section", element("h2", title, id=f"{name}-title"), children, id=name, aria_labelledby=f"{name}-title"
    )


def table(title: str, header: Sequence[Child], rows: Sequence[Sequence[Child]], class_: str = "") -> Markup:
    """Returns a table that scrolls within the page if it is too wide. The first cell of each row names the row.

    Args:
        title: Describes the table to readers who do not see the page.
        header: Names of the columns.
        rows: Cells of each row.
        class_: CSS class of the table.
    """
    head = element("thead", element("tr", [element("th", cell, scope="col") for cell in header]))
    body = element(
        "tbody",
        [element("tr", element("th", row[0], scope="row"), [_cell(cell) for cell in row[1:]]) for row in rows],
    )
    inner = element("table", element("caption", title, class_="hidden"), head, body, class_=class_ or None)
    return element("div", inner, class_="scroll", tabindex=0, role="region", aria_label=title)


def folded(title: str, *children: Child) -> Markup:
    """Returns content that a click opens."""
    return element("details", element("summary", title), children)


def note(*children: Child) -> Markup:
    """Returns a paragraph of explanation."""
    return element("p", children, class_="note")


def metric_text(value: float | None, is_share: bool) -> str:
    """Returns a value as text: a share in percent, another value with three decimals, a missing one as a dash.

    Example:

    >>> metric_text(0.917, True), metric_text(0.917, False)
    ('91.7%', '0.917')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.1%}" if is_share else f"{value:.3f}"


def shortened(text: str, length: int = LONGEST_NAME) -> str:
    """Returns a name of at most `length` characters, more of them from its end, where names of files differ."""
    text = " ".join(text.split()) or MISSING
    return text if len(text) <= length else f"{text[: length // 3]}…{text[len(text) - length + length // 3 + 1 :]}"


def seconds_text(seconds: float) -> str:
    """Returns a duration as text.

    Example:

    >>> seconds_text(4), seconds_text(0.5), seconds_text(83)
    ('4 s', '0.5 s', '1:23')
    """
    return f"{seconds:.3g} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _cell(child):
    is_number = isinstance(child, (int, float)) or (isinstance(child, str) and child[:1].isdigit())
    return element("td", child, class_="number" if is_number else None)
