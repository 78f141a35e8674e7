"""Nearest neighbors: the training clips whose descriptors are most similar to those of some test clips."""

import numpy as np

from keras_netvlad.retrieval import DescriptorIndex
from keras_netvlad.videos.report.blocks import note, section, shortened
from keras_netvlad.videos.report.markup import Markup, element
from keras_netvlad.videos.report.run_files import Run
from keras_netvlad.videos.report.thumbnails import Thumbnails

MOST_QUERIES = 6
NEIGHBORS = 4


def neighbors(run: Run, thumbnails: Thumbnails) -> Markup:
    """Returns the section with the nearest training clips of some test clips."""
    train, test = run.clips.of("train"), run.clips.of("test")
    if not len(train) or not len(test):
        return section("neighbors", "Nearest neighbors", note("The run has no training or no test clips to compare."))
    index = DescriptorIndex()
    index.add([run.clips.ids[number] for number in train], run.clips.descriptors[train])
    ids, similarities = index.search(run.clips.descriptors[test], NEIGHBORS)
    number_of = {name: number for number, name in enumerate(run.clips.ids)}
    found = np.array([[number_of[name] for name in row] for row in ids.tolist()])
    shares_class = (run.clips.labels[found] & run.clips.labels[test][:, None]).any(axis=2)
    items = [
        element(
            "li",
            _figure(run, int(test[query]), None, None, thumbnails),
            [
                _figure(run, int(number), bool(same), float(similarity), thumbnails)
                for number, same, similarity in zip(found[query], shares_class[query], similarities[query], strict=True)
            ],
        )
        for query in _one_of_each_class(run.clips.labels[test])
    ]
    class_ = "its class" if run.is_single_label else "one of its classes"
    explanation = f"For {shares_class[:, 0].mean():.1%} of the test clips, the nearest training clip has {class_}. "
    return section(
        "neighbors",
        "Nearest neighbors",
        note(explanation + "Each row: a test clip, then the training clips with the most similar descriptors."),
        element("ol", items, class_="neighbors"),
    )


def _one_of_each_class(labels):
    """Returns the first clip of each class, for the first classes that have one."""
    first = [np.flatnonzero(column)[0] for column in labels.T if column.any()]
    return list(dict.fromkeys(int(number) for number in first))[:MOST_QUERIES]


def _figure(run, number, same, similarity, thumbnails):
    """Returns a clip with its classes: a test clip if `same` is `None`, otherwise a training clip."""
    name, frames = run.clips.ids[number], len(run.clips.assignments[number])
    names = [run.labels[n] for n in np.flatnonzero(run.clips.labels[number])]
    pictures = thumbnails.pictures(name, [frames / (2 * run.fps)]) if run.fps else []
    classes = shortened(", ".join(names) or "no class", 32)
    if same is None:
        detail = element("small", "test clip")
    else:
        is_same = "same class" if same else "other class"
        mark = element("span", "✓" if same else "✗", aria_label=is_same, title=is_same, role="img")
        detail = element("small", mark, f" {similarity:.3f}")
    return element(
        "figure",
        pictures or element("span", shortened(name, 32), class_="blank"),
        element("figcaption", element("b", classes), detail),
        class_="query" if same is None else "same" if same else "other",
        title=name,
    )
