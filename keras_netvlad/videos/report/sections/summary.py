"""The top of the report: the test result, its confidence interval, and mean pooling for comparison."""

import numpy as np

from keras_netvlad.videos.report.blocks import metric_text, note
from keras_netvlad.videos.report.markup import Markup, element
from keras_netvlad.videos.report.run_files import SPLITS, Run


def headline(run: Run) -> str:
    """Returns the result in one line."""
    test = run.results["test"]
    if test is None or test["model"] is None:
        return "This run has no test clips"
    value = metric_text(test["model"]["value"], run.is_single_label)
    count = _count(run.results["num_videos"]["test"], "test clip")
    if run.results["metric"] == "accuracy":
        return f"{run.names['model']} is right on {value} of {count}"
    name = "a GAP" if run.results["metric"] == "gap" else f"the {run.results['metric']}"
    return f"{run.names['model']} reaches {name} of {value} on {count}"


def summary(run: Run) -> Markup:
    """Returns the header of the page."""
    return element(
        "header",
        element("p", "Training report · ", element("b", run.path.resolve().name), class_="overline"),
        element("h1", headline(run)),
        _intervals(run),
        _facts(run),
    )


def _intervals(run):
    """Returns the results with their intervals, drawn on a common scale from 0 to 1."""
    test, is_share = run.results["test"], run.is_single_label
    if test is None:
        return note("Without test clips, the result on new videos is unknown. The curves below show the validation.")
    items = []
    for key, name in run.names.items():
        result = test[key]
        if result is None:
            continue
        value = metric_text(result["value"], is_share)
        low, high = (result[side] if result[side] is not None else result["value"] for side in ("low", "high"))
        interval = f"{metric_text(low, is_share)} to {metric_text(high, is_share)}"
        track = element(
            "span",
            element("span", class_="range", style=f"left:{_percent(low)};right:{_percent(1 - high)}"),
            element("span", class_="dot", style=f"left:{_percent(result['value'])}"),
            class_=f"track {key}",
            aria_hidden="true",
        )
        items.append(
            element("li", element("span", name, class_="name"), element("b", value), element("span", interval), track)
        )
    confidence = f"{run.results['confidence']:.0%}"
    scale = f"The scale runs from 0 to {'100%' if is_share else '1'}."
    return [
        element("ul", items, class_="results"),
        note(f"Each line is a {confidence} confidence interval. {scale} {_disagreement(run)}"),
    ]


def _disagreement(run):
    """Returns a sentence about the test clips on which only one of the two classifiers is right."""
    test = run.clips.of("test")
    if not run.is_single_label or not len(test) or "mean" not in run.names:
        return ""
    truth = run.clips.labels[test].argmax(axis=1)
    is_right, is_mean_right = (
        scores[test].argmax(axis=1) == truth for scores in (run.clips.scores, run.clips.mean_scores)
    )
    only, only_mean = int((is_right & ~is_mean_right).sum()), int((is_mean_right & ~is_right).sum())
    return f"Only {run.names['model']} is right on {_count(only, 'clip')}, only mean pooling on {only_mean}."


def _facts(run):
    """Returns the sizes of the run."""
    counts = run.results["num_videos"]
    frames = np.array([len(rows) for rows in run.clips.assignments])
    median = float(np.median(frames))
    facts = [
        (f"{sum(counts.values()):,}", "clips"),
        *((f"{counts[split]:,}", split) for split in SPLITS),
        (len(run.labels), "classes"),
        *([(run.clips.assignments[0].shape[1], "clusters")] if run.has_clusters else []),
        (f"{median:g}", "frames per clip"),
    ]
    return element("dl", [element("div", element("dt", name), element("dd", value)) for value, name in facts])


def _count(number, noun):
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(share):
    return f"{100 * min(max(share, 0), 1):.2f}%"
