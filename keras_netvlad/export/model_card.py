"""`model_card`: a page about a model in the form that model hubs show, Markdown behind metadata in YAML.

The page is the file `README.md` in a directory with a model. It is made here, and not by the callers, so that a
published version and a predictor describe themselves in the same way.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keras_netvlad._version import __version__
from keras_netvlad.base.names import SCORES
from keras_netvlad.export.metadata import LABELS
from keras_netvlad.export.parity_file import Parity
from keras_netvlad.export.port import Port
from keras_netvlad.export.signature import Signature

CARD_FILE = "README.md"
LICENSE, TRAINED_ON = "license", "trained_on"
# More classes are counted, not listed; the artifact names all.
MOST_CLASSES = 100


@dataclass(frozen=True)
class Metric:
    """A metric of a model on test or validation data, as the card shows it.

    Attributes:
        kind: Name of the metric, such as `"accuracy"`.
        model: Name of the model, such as that of its pooling.
        value: The metric.
        low: Lower end of the confidence interval, or `None` if it was not measured.
        high: Upper end of the confidence interval, or `None`.
        confidence: Share of the intervals that contain the true value, such as 0.95, or `None`.
        is_baseline: Whether it belongs to a model that the card's model is compared with.
    """

    kind: str
    model: str
    value: float
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    is_baseline: bool = False


def model_card(
    name: str,
    description: str,
    usage: str,
    artifacts: Mapping[str, Parity | None],
    *,
    library: str,
    is_classifier: bool,
    metadata: Mapping[str, Any] | None = None,
    data: Sequence[str] = (),
    metrics: Sequence[Metric] = (),
    evaluated_on: Literal["test", "validation"] = "test",
) -> str:
    """Returns the text of a card.

    Args:
        name: Name of the model.
        description: Sentences about what the model is.
        usage: Markdown about how to run it.
        artifacts: Dict from file names to the results of their verifications, or `None` for one that was not verified.
        library: The hub's name of the library that loads the files.
        is_classifier: Whether the model classifies videos. Otherwise it computes descriptors.
        metadata: The user's metadata. `license` is an identifier of the hub, such as `"apache-2.0"`; `trained_on` names
            the training data; `labels` names the classes.
        data: Further sentences about the data.
        metrics: Results on test or validation data, all with a confidence interval or all without.
        evaluated_on: Which of the two.

    Returns:
        The text. Its metadata are those of
        [Hugging Face's model cards](https://huggingface.co/docs/hub/model-cards).
    """
    given = dict(metadata or {})
    labels, license_name = given.pop(LABELS, []), given.pop(LICENSE, None)
    trained_on = given.pop(TRAINED_ON, None)
    front: dict[str, Any] = {
        "license": str(license_name or "unknown"),
        "library_name": library,
        "pipeline_tag": "video-classification" if is_classifier else "feature-extraction",
        "tags": ["netvlad", "keras_netvlad", "video"],
    }
    own = [metric for metric in metrics if not metric.is_baseline]
    if own:
        front["metrics"] = [metric.kind for metric in own]
        front["model-index"] = [
            {"name": name, "results": [_result(metric, evaluated_on, trained_on) for metric in own]}
        ]
    parts = [
        "\n".join(["---", *(f"{key}: {_yaml(value)}" for key, value in front.items()), "---"]),
        f"# {_text(name)}",
        f"{description} It was made with keras_netvlad {__version__}.",
        "## How to run it",
        usage,
        "## Data",
        " ".join([f"The model was trained on: {_text(trained_on or 'not stated')}.", *data]),
    ]
    if labels:
        parts += ["## Classes", _classes(labels)]
    if metrics:
        rows = [[metric.model, metric.kind, f"{metric.value:.3f}", *_interval(metric)] for metric in metrics]
        confidence = metrics[0].confidence
        header = ["model", "metric", "value"]
        header += [] if confidence is None else [f"{confidence:.0%} confidence interval"]
        parts += [f"## Results on {evaluated_on} videos", _table(header, rows)]
    if given:
        rows = [[key, json.dumps(value, ensure_ascii=False)] for key, value in given.items()]
        parts += ["## Other facts", _table(["name", "value"], rows)]
    parts += [
        "## Artifacts",
        "The largest difference between a file and its Keras model, relative to the largest value of an output:",
        _table(["file", "difference", "tolerance", "runs"], [_artifact(*item) for item in artifacts.items()]),
        "## License",
        _text(license_name) if license_name else "Not stated. Write it here, and as `license` at the top of this file.",
    ]
    return "\n\n".join(parts) + "\n"


def signature_usage(signature: Signature, onnx_file: str | None = None) -> str:
    """Returns Markdown with a program that runs one video of zeros through an artifact.

    Args:
        signature: The signature `serving_default`.
        onnx_file: Name of the ONNX file, or `None` for a SavedModel.
    """
    inputs = []
    for port in signature.inputs:
        sizes = {"batch": 1, "frames": 30}
        shape = [
            size if size is not None else sizes.get(name or "", 64)
            for size, name in zip(port.shape, port.axis_names, strict=True)
        ]
        value = f"np.full({shape}, 30, {port.dtype!r})" if len(shape) == 1 else f"np.zeros({shape}, {port.dtype!r})"
        inputs.append(f"    {port.name!r}: {value},")
    if onnx_file is None:
        packages = "tensorflow"
        lines = [
            "import numpy as np",
            "import tensorflow as tf",
            "",
            'model = tf.saved_model.load(".")',
            "inputs = {",
            *inputs,
            "}",
            'outputs = model.signatures["serving_default"](**{name: tf.constant(x) for name, x in inputs.items()})',
        ]
    else:
        packages = "onnxruntime"
        lines = [
            "import numpy as np",
            "import onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("{onnx_file}")',
            "inputs = {",
            *inputs,
            "}",
            "names = [output.name for output in session.get_outputs()]",
            "outputs = dict(zip(names, session.run(names, inputs)))",
        ]
    program = "\n".join([*lines, "print({name: output.shape for name, output in outputs.items()})"])
    return f"In this directory, with `pip install {packages}`:\n\n```python\n{program}\n```"


def has_scores(signature: Signature) -> bool:
    """Returns whether a model computes scores of classes."""
    return any(port.name == SCORES for port in signature.outputs)


def signature_description(signature: Signature) -> str:
    """Returns a sentence about the inputs and outputs of a model."""
    does = "classifies videos" if has_scores(signature) else "describes videos"
    inputs, outputs = (", ".join(map(_port, ports)) for ports in (signature.inputs, signature.outputs))
    return f"This model {does}. Inputs: {inputs}. Outputs: {outputs}."


def _port(port: Port) -> str:
    sizes = (name or str(size) for size, name in zip(port.shape, port.axis_names, strict=True))
    return f"`{port.name}` {port.dtype} ({', '.join(sizes)})"


def _result(metric: Metric, evaluated_on: str, trained_on: Any) -> dict[str, Any]:
    interval = "".join(f" ({metric.confidence:.0%} confidence: {ends})" for ends in _interval(metric))
    return {
        "task": {"type": "video-classification"},
        "dataset": {"type": "private", "name": f"{evaluated_on} videos of {trained_on or 'own videos'}"},
        "metrics": [{"type": metric.kind, "value": round(metric.value, 4), "name": f"{metric.kind}{interval}"}],
    }


def _interval(metric: Metric) -> list[str]:
    """Returns the ends of the confidence interval as a text, or nothing if it was not measured."""
    return [] if metric.confidence is None else [f"{metric.low:.3f} to {metric.high:.3f}"]


def _yaml(value: Any) -> str:
    """Returns a value as JSON, which is YAML, with the escapes of YAML for characters that it does not take."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)


def _text(value: Any) -> str:
    """Returns a user's text on one line, so that Markdown shows it unchanged."""
    text = " ".join(str(value).split())
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#" else char for char in text)


def _classes(labels: Sequence[str]) -> str:
    shown = ", ".join(_text(label) for label in labels[:MOST_CLASSES])
    more = len(labels) - MOST_CLASSES
    return f"{len(labels)}: {shown}" + (f", and {more} more, which the artifact names." if more > 0 else ".")


def _artifact(file: str, parity: Parity | None) -> list[str]:
    if parity is None:
        return [file, "not verified", "", ""]
    differences = [output["max_relative_difference"] for output in parity["outputs"]]
    found = [difference for difference in differences if difference is not None]
    worst = f"{max(found):.1e}" if found and len(found) == len(differences) else "not finite"
    return [file, worst, f"{parity['tolerance']:g}", str(parity["num_runs"])]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
