"""An extension of Griffe that turns the docstrings of this package into Markdown.

A section such as `Args:` or `Input shape:` becomes a title and its text, the arguments in it a list of definitions, and
an example a block of Python code that can be copied, with its output in comments.
"""

import re
import textwrap

import griffe

# Sections with an entry for each name.
ENTRIES = ("Args", "Attributes", "Call arguments", "Raises")
TEXTS = ("Example", "Input shape", "Output shape", "Reference", "Returns", "Weights", "Yields")
ENTRY = re.compile(r"((?:\*{0,2}`?[A-Za-z_][\w.]*`?)(?:, \*{0,2}`?[A-Za-z_][\w.]*`?)*): (.*)")


class HeadedSections(griffe.Extension):
    """Replaces each docstring by its Markdown."""

    def on_object(self, *, obj, **kwargs):
        """Is called once for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(docstring):
    """Returns the Markdown of a docstring whose lines start at the margin."""
    lines, result = docstring.splitlines(), []
    while lines:
        line = lines.pop(0)
        title = line.removesuffix(":")
        if line.endswith(":") and title in (*ENTRIES, *TEXTS):
            body = []
            while lines and (not lines[0] or lines[0].startswith(" ")):
                body.append(lines.pop(0))
            text = textwrap.dedent("\n".join(body)).strip()
            result += ["", f"**{title}**", "{: .section }", ""]
            result += _definitions(text) if title in ENTRIES else [text]
            result.append("")
        else:
            result.append(line)
    return _code_of_examples("\n".join(result)).strip()


def _definitions(text):
    """Returns the lines of a list of definitions; lines that define nothing remain."""
    result = []
    for line in text.splitlines():
        entry = ENTRY.fullmatch(line)
        if entry:
            names = ", ".join(f"`{name.strip('`')}`" for name in entry[1].split(", "))
            result += ["", names, f":   {entry[2]}"]
        else:
            result.append(line)
    return result


def _code_of_examples(text):
    """Returns the text with each interactive session as a block of code: `>>> x` becomes `x`, its output a comment."""
    result, lines = [], text.splitlines()
    while lines:
        line = lines.pop(0)
        if not line.lstrip().startswith(">>> "):
            result.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        code = [_without_prompt(line[len(indent) :])]
        # A session ends at an empty line, unless another one follows.
        while lines and (lines[0].strip() or (lines[1:] and lines[1].lstrip().startswith(">>> "))):
            code.append(_without_prompt(lines.pop(0)[len(indent) :]))
        result += [f"{indent}{row}".rstrip() for row in ("```python", *code, "```")]
    return "\n".join(result)


def _without_prompt(line):
    if line.startswith((">>> ", "... ")):
        return re.sub(r"\s*# doctest:.*", "", line[4:])
    if line == "...":
        return ""
    return f"# {line.replace('<BLANKLINE>', '')}".rstrip() if line else ""
