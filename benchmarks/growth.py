"""How time and memory grow with frames, clusters, features and videos, up to an hour of frames."""

import numpy as np

from benchmarks import markdown
from benchmarks.measuring import Worker, interleaved, medians

TITLE = "Growth"
BASE = {"B": 8, "N": 300, "D": 1024, "K": 64}
GROWING = {  # an hour is 90 000 frames at 25 a second
    "N": ({"B": 1}, (900, 3000, 9000, 30000, 90000)),
    "K": ({}, (16, 32, 64, 128, 256, 512)),
    "D": ({}, (64, 128, 256, 512, 1024, 2048)),
    "B": ({}, (1, 2, 4, 8, 16, 32, 64)),
}
QUICK = {"N": ({"B": 1}, (20, 200)), "K": ({"N": 20}, (4, 8))}
WHATS = ("forward", "training step")


def calls(points):
    """Calls to measure, `<point>/<what>/NetVLAD`, of all points `(name, B, N, D, K)`."""
    from benchmarks import forms

    return {
        f"{point}/{name}": call
        for point, *shape in points
        for name, call in forms.calls("tensorflow", shape, ["NetVLAD"]).items()
    }


def measure(quick, seconds):
    """Runs everything; returns a dict for JSON."""
    limits = {"min_visits": 2, "visit_seconds": 0, "seconds": 0} if quick else {"seconds": seconds}
    rows = []
    with Worker("tensorflow", KERAS_BACKEND="tensorflow") as worker:
        for axis, (changes, values) in (QUICK if quick else GROWING).items():
            points = [(value, *{**BASE, **changes, axis: value}.values()) for value in values]
            names = worker.make("benchmarks.growth:calls", points=points)
            rounds = medians(interleaved({worker: names}, **limits))
            for what in WHATS:
                counter = "benchmarks.backends.on_tensorflow:added_bytes"
                calls = [f"{value}/{what}/NetVLAD" for value in values]
                row = {"axis": axis, "fixed": {**BASE, **changes}, "what": what, "values": values}
                row["seconds"] = [float(np.median(rounds[f"tensorflow/{call}"])) for call in calls]
                row["memory"] = [worker.ask(memory=call, counter=counter) for call in calls]
                rows.append(row)
            print(f"growth: {axis}", flush=True)
    return {"left_out": [], "rows": rows}


def _exponent(values, measured):
    """Slope of the logarithms: what is multiplied by 2 ** exponent when the size doubles."""
    kept = [(value, result) for value, result in zip(values, measured, strict=True) if result > 0]
    if len(kept) < 2:
        return None
    return float(np.polyfit(*np.log(kept).T, 1)[0])


def _cell(values, measured):
    exponent = _exponent(values, measured)
    return "" if exponent is None else f"{exponent:.2f}"


def tables(part):
    """The part as Markdown."""
    rows = []
    for row in part["rows"]:
        values, seconds, memory = row["values"], row["seconds"], row["memory"]
        fixed = ", ".join(f"{axis}={size}" for axis, size in row["fixed"].items() if axis != row["axis"])
        cells = [f"{row['axis']} from {values[0]} to {values[-1]}", fixed, row["what"]]
        cells += [f"{1e3 * seconds[0]:.1f} to {1e3 * seconds[-1]:.1f}", _cell(values, seconds)]
        rows.append([*cells, f"{memory[0] / 1e6:.1f} to {memory[-1] / 1e6:.1f}", _cell(values, memory)])
    header = ["growing", "fixed", "what", "ms", "exponent", "memory beyond the inputs, MB", "exponent"]
    return markdown.table(header, rows)


def draw(part):
    """Time and memory over each size, logarithmic."""
    from matplotlib.figure import Figure

    axes_names = list(dict.fromkeys(row["axis"] for row in part["rows"]))
    figure = Figure(figsize=(2.6 * len(axes_names) + 0.5, 5), layout="constrained")
    grid = figure.subplots(2, len(axes_names), squeeze=False, sharey="row")
    for column, axis in enumerate(axes_names):
        for row in (row for row in part["rows"] if row["axis"] == axis):
            grid[0, column].loglog(row["values"], [1e3 * value for value in row["seconds"]], "o-", label=row["what"])
            used = [value / 1e6 if value > 0 else None for value in row["memory"]]
            grid[1, column].loglog(row["values"], used, "o-", label=row["what"])
        for axes in grid[:, column]:
            axes.set_xticks(row["values"][::2], [f"{value:,}" for value in row["values"][::2]])
            axes.minorticks_off()
        grid[1, column].set_xlabel(axis)
    grid[0, 0].set_ylabel("ms")
    grid[1, 0].set_ylabel("memory beyond\nthe inputs, MB")
    grid[0, 0].legend(fontsize="small")
    return figure
