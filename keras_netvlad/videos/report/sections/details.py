"""The end of the report: the verification of the exported files, and the settings of the run."""

import json

from keras_netvlad.videos.report.blocks import MISSING, note, section, shortened, table
from keras_netvlad.videos.report.markup import Markup, element
from keras_netvlad.videos.report.run_files import Run


def exports(run: Run) -> Markup:
    """Returns the section with the differences between the exported files and the model."""
    rows = [row for name, content in run.exports for row in _rows(name, content)]
    agreements = [
        f"{name}: the same top class on {found['same']} of {found['rows']} rows of real data."
        for name, content in run.exports
        if (found := (content["parity"] or {}).get("top_1_agreement"))
    ]
    header = ["File", "Output", "Result", "To the model", "To float64", "Tolerance"]
    return section(
        "exports",
        "Exported files",
        [
            note(
                "Largest relative difference of each output to that of the model, and to that of a copy of the model "
                "that computes in float64."
            ),
            table("Verification of the exported files", header, rows),
            [note(sentence) for sentence in agreements],
        ]
        if rows
        else note("The run has no exported files with a record of their verification."),
    )


def settings(run: Run) -> Markup:
    """Returns the section with all settings of the run."""
    rows = [
        [element("code", shortened(key)), element("code", value if isinstance(value, str) else json.dumps(value))]
        for key, value in run.settings.items()
        if value is not None
    ]
    return section("settings", "Settings", table("Settings of the run", ["Name", "Value"], rows, "settings"))


def _rows(name, content):
    """Returns a row of the table for each output of a file."""
    parity = content["parity"]
    label = f"{name}, {content['precision']}" if content["precision"] else name
    if parity is None:
        return [[label, MISSING, "not verified", MISSING, MISSING, MISSING]]
    return [
        [
            label,
            row["output"],
            "ok" if (parity["ok"] if row["ok"] is None else row["ok"]) else "differs",
            _difference(row["max_relative_difference"]),
            _difference(row["max_relative_difference_to_float64"]),
            f"{parity['tolerance']:g}",
        ]
        for row in parity["outputs"]
    ]


def _difference(value):
    return MISSING if value is None else f"{value:.1e}"
