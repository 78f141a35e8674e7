"""Builds HTML and SVG. Text is escaped unless it is `Markup`, which only this module makes from text."""

import html
import re
from collections.abc import Iterable

VOID = ("br", "col", "img", "meta")
# Characters that HTML does not allow: controls other than tab and line feeds, and halves of surrogate pairs.
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """A piece of HTML. Other strings are text."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]


def element(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """Returns an HTML or SVG element.

    Args:
        name: Name of the element.
        *children: Markup, text that is escaped, or iterables of these. `None` is left out.
        **attributes: Values, which are escaped. An underscore at the end of a name is dropped, and others become
            hyphens. `None` and `False` leave an attribute out; `True` writes its name only.

    Returns:
        The element as `Markup`.

    Example:

    >>> element("p", "1 < 2, ", element("b", "yes"), class_="fact", hidden=None)
    '<p class="fact">1 &lt; 2, <b>yes</b></p>'
    """
    opening = [name]
    for attribute, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = attribute.rstrip("_").replace("_", "-")
        opening.append(attribute if value is True else f'{attribute}="{escaped(value)}"')
    start = f"<{' '.join(opening)}>"
    return Markup(start if name in VOID else f"{start}{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Returns the children, one after the other.

    Example:

    >>> join("a & b", None, [element("br"), 3])
    'a &amp; b<br>3'
    """
    return Markup("".join(_parts(children)))


def escaped(text: object) -> str:
    """Returns text for use in HTML, in attributes as well. Characters that HTML forbids become U+FFFD.

    Example:

    >>> escaped('<a href="x">')
    '&lt;a href=&quot;x&quot;&gt;'
    """
    return html.escape(FORBIDDEN.sub("\ufffd", str(text)), quote=True)


def style_sheet(css: str) -> Markup:
    """Returns a `style` element with a style sheet of this package, which is not escaped."""
    return Markup(f"<style>\n{css}</style>")


def _parts(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, (str, int, float)):
            yield escaped(child)
        else:
            yield from _parts(child)
