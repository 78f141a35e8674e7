"""Results by class: recall or average precision of each class, and which classes are taken for which."""

from keras_netvlad.videos.report.blocks import folded, metric_text, note, section, shortened, table
from keras_netvlad.videos.report.markup import Markup, element
from keras_netvlad.videos.report.run_files import SPLITS, Run
from keras_netvlad.videos.report.statistics import confusion_matrix

# Larger matrices cannot be read. The most frequent confusions are listed in any case.
MOST_CLASSES_IN_MATRIX = 30
MOST_ROWS = 30
MOST_CONFUSIONS = 8


def classes(run: Run) -> Markup:
    """Returns the section with the results of each class."""
    value = "recall" if run.is_single_label else "average precision"
    explanation = (
        "Recall is the share of the test clips of a class that the model names as this class."
        if run.is_single_label
        else "Average precision is 1 if all test clips of a class have higher scores for it than all other clips."
    )
    return section(
        "classes",
        "Classes",
        note(
            explanation,
            element("span", f" The upper bar is {run.names['model']}, the lower one mean pooling.", class_="minor")
            if "mean" in run.names
            else None,
        ),
        _class_table(run, value),
        _confusions(run) if run.is_single_label else None,
    )


def _class_table(run, value):
    rows = [
        [
            shortened(row["name"]),
            *(f"{row[split]:,}" for split in SPLITS),
            *(metric_text(row[model], run.is_single_label) for model in run.names),
            _bars(row, run.names),
        ]
        for row in run.results["classes"]
    ]
    header = ["Class", "Train", "Val.", "Test", run.names["model"], *(["Mean"] if "mean" in run.names else []), ""]
    title = f"Clips and {value} of each class"
    if len(rows) <= MOST_ROWS:
        return table(title, header, rows, "classes")
    return [
        note(f"The table begins with the {MOST_ROWS} classes with the lowest {value}."),
        table(title, header, _lowest(run, rows), "classes"),
        folded(f"All {len(rows)} classes", table(title, header, rows, "classes")),
    ]


def _lowest(run, rows):
    """Returns the rows with the lowest values. Classes without test clips are last."""
    values = [row["model"] for row in run.results["classes"]]
    order = sorted(range(len(rows)), key=lambda number: (values[number] is None, values[number] or 0))
    return [rows[number] for number in order[:MOST_ROWS]]


def _bars(row, models):
    """Returns the values of a class as two bars. The numbers stand next to them."""
    bars = [
        element("span", class_=model, style=f"width:{100 * min(max(row[model] or 0, 0), 1):.1f}%") for model in models
    ]
    return element("span", bars, class_="bars", aria_hidden="true")


def _confusions(run):
    test = run.clips.of("test")
    if not len(test):
        return None
    matrix = confusion_matrix(run.clips.labels[test], run.clips.scores[test])
    pairs = [(int(matrix[i, j]), i, j) for i, j in zip(*matrix.nonzero(), strict=True) if i != j]
    pairs = sorted(pairs, key=lambda pair: -pair[0])[:MOST_CONFUSIONS]
    listed = [
        element("li", f"{shortened(run.labels[i])} → {shortened(run.labels[j])}: {count} of {matrix[i].sum()}")
        for count, i, j in pairs
    ]
    return [
        element("h3", "Which class is taken for which"),
        element(
            "div",
            _matrix(run.labels, matrix) if len(run.labels) <= MOST_CLASSES_IN_MATRIX else None,
            element("div", note("Most frequent confusions, true → given"), element("ul", listed, class_="confusions"))
            if listed
            else note("No test clip is given a wrong class."),
            class_="confusion",
        ),
    ]


def _matrix(labels, matrix):
    """Returns the confusion matrix as a table whose cells are colored by their share of the row."""
    header = [element("td", "true ↓  given →", class_="corner")]
    header += [element("th", element("span", shortened(label, 20)), scope="col") for label in labels]
    rows = []
    for number, counts in enumerate(matrix):
        total = max(int(counts.sum()), 1)
        cells = [
            element(
                "td",
                int(count),
                class_=" ".join(
                    name
                    for name, applies in (
                        ("right", column == number),
                        ("zero", count == 0),
                        ("strong", count > 0.5 * total),
                    )
                    if applies
                )
                or None,
                style=f"--share:{100 * count / total:.0f}%" if count else None,
            )
            for column, count in enumerate(counts)
        ]
        rows.append(element("tr", element("th", element("span", shortened(labels[number], 24)), scope="row"), cells))
    title = "Confusion matrix of the test clips: true classes in rows, given classes in columns"
    inner = element(
        "table",
        element("caption", title, class_="hidden"),
        element("thead", element("tr", header)),
        element("tbody", rows),
        class_="matrix",
    )
    return element("div", inner, class_="scroll", tabindex=0, role="region", aria_label=title)
