"""Tables."""


def table(header, rows):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def ratio(quartiles):
    """A ratio with its quartiles, `None` as a gap."""
    return "" if quartiles is None else "{1:.2f} ({0:.2f} to {2:.2f})".format(*quartiles)


def quotient(values, name, base, digits=2):
    """One value of a dict over another, a gap where there is none."""
    return f"{values[name] / values[base]:.{digits}f}" if name in values and values.get(base) else ""


def notes(left_out):
    """What was not measured, and why: a list, or nothing."""
    return "".join(f"\n\nNot measured: {reason}." for reason in left_out)
