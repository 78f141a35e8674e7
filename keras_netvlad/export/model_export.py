"""`export_model`: every format of a model in one directory."""

from pathlib import Path

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.onnx.onnx_export import check_opset, export_onnx
from keras_netvlad.export.saved_model import export_saved_model
from keras_netvlad.export.verification.report import ParityError

FORMATS = ("saved_model", "onnx")


def export_model(
    model,
    directory,
    formats=FORMATS,
    opset=18,
    precision="float32",
    *,
    tolerance=None,
    data=None,
    min_agreement=None,
    metadata=None,
):
    """Exports a model to a directory that appears whole, with every format verified, or not at all.

    The SavedModel lies in `<directory>/<model's name>/1/`, as TensorFlow Serving wants it, and the ONNX model in
    `<directory>/model.onnx`. For a directory that a server polls, use `publish` and `publish_triton`.

    Args:
        model: A functional or Sequential Keras model with named inputs.
        directory: Path that does not exist yet.
        formats: Any of `"saved_model"` and `"onnx"`.
        opset: Integer, ONNX operator set, 13 to 18.
        precision: As of `export_onnx`; the SavedModel is `"float32"` only.
        tolerance, data, min_agreement: As of `verify`.
        metadata: As of `export_saved_model`.

    Returns:
        A list of `Report`, one for each format.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import export_model
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2, name="classifier")
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     reports = export_model(model, os.path.join(directory, "out"))
    ...     sorted(os.listdir(os.path.join(directory, "out")))
    ['classifier', 'model.onnx', 'model.onnx.parity.json']
    >>> [(report.kind, report.ok) for report in reports]
    [('saved_model', True), ('onnx', True)]

    Raises:
        ValueError, TypeError: If a format, the opset or the model is not one that can be exported.
        ParityError: If an artefact computes something else than the model. Nothing is written then.
        OSError: If the directory exists or can't be written.
    """
    formats = list(dict.fromkeys(formats))
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"`formats` must be some of {list(FORMATS)}. Received: {unknown or formats}")
    if "saved_model" in formats and precision != "float32":
        raise ValueError(
            "A SavedModel holds the model as it is; other precisions are for ONNX, with `formats=['onnx']`. "
            f"Received: precision={precision!r}"
        )
    check_opset(opset)
    read_signature(model)
    options = {"tolerance": tolerance, "data": data, "min_agreement": min_agreement, "metadata": metadata}
    directory = Path(directory)
    with staged(directory) as stage:
        stage.mkdir()
        try:
            reports = []
            for name in formats:
                relative = Path(model.name, "1") if name == "saved_model" else Path("model.onnx")
                export = export_saved_model if name == "saved_model" else export_onnx
                form = {} if name == "saved_model" else {"opset": opset, "precision": precision}
                reports.append(export(model, stage / relative, **form, **options).at(directory / relative))
        except ParityError as error:
            raise ParityError(error.report.at(directory / Path(error.report.path).relative_to(stage))) from error
        return reports
