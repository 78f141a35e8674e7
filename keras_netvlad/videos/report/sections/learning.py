"""Learning curves: loss and metric of each epoch, of the run's own model and of the one with mean pooling."""

import sys

from keras_netvlad.videos.report.blocks import MISSING, folded, metric_text, note, section, table
from keras_netvlad.videos.report.charts import Line, line_chart
from keras_netvlad.videos.report.markup import Markup, element
from keras_netvlad.videos.report.run_files import Run

METRICS = {"accuracy": "accuracy", "gap": "GAP"}


def learning_curves(run: Run) -> Markup:
    """Returns the section with the learning curves."""
    metric = run.results["metric"]
    legend = [
        element("span", element("i", class_=f"swatch {style}"), name)
        for style, name in (
            *run.names.items(),
            ("solid", "validation"),
            ("training", "training"),
        )
    ]
    figures = [
        _figure(run, "loss", "Loss", None),
        _figure(run, metric, _capitalized(METRICS.get(metric, metric)), (1.0, 1.0)),
    ]
    return section(
        "learning",
        "Learning curves",
        element("p", legend, class_="legend"),
        element("div", figures, class_="columns"),
        note(_best(run, metric)),
        folded("Numbers of each epoch", _numbers(run, metric)),
    )


def _figure(run, key, title, limits):
    lines, ends = [], []
    for model, name in run.names.items():
        for prefix, part, style in (("", "training", " training"), ("val_", "validation", "")):
            points = _points(run.history[model], prefix + key)
            if points:
                lines.append(Line(f"{name}, {part}", points, model + style))
                ends.append(f"{name}, {part}: {points[0][1]:.3g} to {points[-1][1]:.3g}")
    chart = line_chart(lines, f"{title} by epoch. {'; '.join(ends)}.", "epoch", limits)
    return element("figure", element("figcaption", title), chart)


def _capitalized(name):
    return name[:1].upper() + name[1:]


def _points(epochs, key):
    """Returns `(epoch, value)` of the epochs that have a finite value."""
    values = [(epoch["epoch"], epoch.get(key)) for epoch in epochs]
    return [(number, float(value)) for number, value in values if _is_number(value)]


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _best(run, metric):
    """Returns a sentence about the best epoch of each model."""
    best = []
    for model, name in run.names.items():
        points = _points(run.history[model], f"val_{metric}")
        if points:
            epoch, value = max(points, key=lambda point: point[1])
            best.append(f"{name} {metric_text(value, metric == 'accuracy')} in epoch {epoch}")
    if not best:
        return "The run has no validation clips."
    return f"Best {METRICS.get(metric, metric)} on the validation clips: {', '.join(best)}."


def _numbers(run, metric):
    keys = ["loss", "val_loss", metric, f"val_{metric}"]
    header = ["Epoch", *(f"{name}, {key}" for name in run.names.values() for key in keys)]
    values = {model: {epoch["epoch"]: epoch for epoch in run.history[model]} for model in run.names}
    epochs = sorted(set().union(*values.values()))
    rows = [
        [f"{epoch}", *(_text(values[model].get(epoch, {}).get(key)) for model in run.names for key in keys)]
        for epoch in epochs
    ]
    return table("Loss and metric of each epoch", header, rows)


def _text(value):
    return f"{value:.4g}" if _is_number(value) else MISSING
