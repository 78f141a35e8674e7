"""`publish`: writes a model as the next version that TensorFlow Serving loads."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.stages import stage
from keras_netvlad.base.validation import check_integer, check_number
from keras_netvlad.export.metadata import check_metadata
from keras_netvlad.export.model_card import (
    CARD_FILE,
    Metric,
    has_scores,
    model_card,
    signature_description,
    signature_usage,
)
from keras_netvlad.export.padding import can_pad
from keras_netvlad.export.parity_file import write_parity
from keras_netvlad.export.saved_model import write_saved_model
from keras_netvlad.export.serving.batching_parameters import batching_parameters
from keras_netvlad.export.serving.model_versions import check_model_name, next_version
from keras_netvlad.export.serving.warmup_requests import plan_requests, warm_up
from keras_netvlad.export.serving.warmup_sizes import warmup_sizes
from keras_netvlad.export.serving_signatures import serving_signatures
from keras_netvlad.export.signature import SERVING_DEFAULT
from keras_netvlad.export.verification.options import check_options
from keras_netvlad.export.verification.real_data import RealData
from keras_netvlad.export.verification.report import Report
from keras_netvlad.export.verification.staged_artifact import verify_staged

BATCHING_FILE = "batching_params.pbtxt"


def publish(
    model: keras.Model,
    base_path: str | os.PathLike[str],
    name: str | None = None,
    version: int | None = None,
    *,
    max_batch_size: int = 32,
    max_queue_delay_microseconds: int = 2000,
    warmup_frames: Sequence[int] | None = None,
    verify: bool = True,
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Report | None:
    """Publishes a model as `<base_path>/<name>/<version>/`, which a running TensorFlow Serving loads by itself.

    The version is written to a temporary directory, verified in every signature, warmed up, and then renamed. A server
    that polls the directory never sees a partial version, even if this process is killed. Next to the SavedModel, the
    version contains

    - `parity.json`: the result of the verification, and `metadata`;
    - `README.md`: a model card with both, in the form that model hubs show;
    - `assets.extra/tf_serving_warmup_requests`: requests that the server runs before it uses the version. They are run
      here first, because one failing request would fail the load;
    - `batching_params.pbtxt`: for a server that batches (`--enable_per_model_batching_parameters`). It tells the server
      to pad requests of different lengths only if the model takes `num_frames`, which excludes the padding, and has no
      other inputs or outputs of variable size. Otherwise, only requests of equal shape are merged.

    Files and directories get the permissions that the umask of the process allows. The server must be able to read
    them.

    Args:
        model: A functional or Sequential Keras model with named inputs.
        base_path: Directory of all models. It is created if it does not exist.
        name: Name under which the model is served. The default is the model's own name.
        version: Positive integer that does not exist yet. The default is the highest existing version plus one.
        max_batch_size: Integer, largest number of rows that a request may have and that the server merges.
        max_queue_delay_microseconds: Integer, time that a request may wait for others.
        warmup_frames: Lengths of the warm-up requests in frames, each at batch size 1 and at the largest batch size, up
            to `max_batch_size`, whose inputs take at most 64 MB as float32. The default is two lengths: the smallest
            power of two that the model accepts, and 300 or the largest that takes at most 64 MB. Empty for no warm-up.
        verify: Boolean, whether to compare the artifact with the model before it appears.
        tolerance, data, min_agreement: See `verify`.
        metadata: See `export_saved_model`. The model card also shows `license`, an identifier such as `"apache-2.0"`,
            and `trained_on`, the name of the training data.
        metrics: Dict from the name of a metric, such as `"gap"`, to its value on the validation data; or `None`. The
            model card shows them.

    Returns:
        The `Report` of the verification, or `None` if `verify` is `False`. Its `path` is the directory of the version.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import publish
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2, name="classifier")
    >>> with tempfile.TemporaryDirectory() as base_path:
    ...     reports = [publish(model, base_path) for _ in range(2)]
    ...     sorted(os.listdir(os.path.join(base_path, "classifier")))
    ['1', '2']

    Raises:
        TypeError: If `model` is not a functional or Sequential Keras model.
        ValueError: If the model cannot be exported or an argument is invalid.
        ParityError: If the artifact does not compute what the model computes. Nothing is written.
        FileExistsError: If `version` exists.
        OSError: If the directory cannot be written.
    """
    signatures = serving_signatures(model)
    metadata = check_metadata(metadata, signatures[SERVING_DEFAULT].outputs)
    metrics = {kind: check_number(f"metrics[{kind!r}]", value) for kind, value in (metrics or {}).items()}
    data = check_options(signatures[SERVING_DEFAULT], tolerance, data, min_agreement)
    pads = can_pad(signatures[SERVING_DEFAULT])
    parameters = batching_parameters(max_batch_size, max_queue_delay_microseconds, pads=pads)
    if version is not None:
        check_integer("version", version, 1)
    directory = Path(base_path) / check_model_name(name or model.name)
    with stage("tracing the model with the lengths of the warm-up"):
        sizes = warmup_sizes(signatures[SERVING_DEFAULT], max_batch_size, warmup_frames)
    requests = plan_requests(signatures, sizes)
    while True:
        target = directory / str(next_version(directory) if version is None else version)
        try:
            with staged(target) as path:
                precision = write_saved_model(model, signatures, path)
                report = None
                if verify:
                    report = verify_staged(model, signatures, path, target, tolerance, data, min_agreement)
                write_parity(path, None if report is None else report.as_dict(), metadata, precision)
                (path / BATCHING_FILE).write_text(parameters)
                card = model_card(
                    directory.name,
                    signature_description(signatures[SERVING_DEFAULT]),
                    signature_usage(signatures[SERVING_DEFAULT]),
                    {"saved_model.pb": None if report is None else report.as_dict()},
                    library="tensorflow",
                    is_classifier=has_scores(signatures[SERVING_DEFAULT]),
                    metadata=metadata,
                    metrics=[Metric(kind, directory.name, value) for kind, value in (metrics or {}).items()],
                    evaluated_on="validation",
                )
                (path / CARD_FILE).write_text(card, encoding="utf-8")
                if requests:
                    with stage(f"running {len(requests)} warm-up requests"):
                        warm_up(path, signatures, requests)
            return report
        except FileExistsError:
            # Another publisher has used the number in the meantime. Without a chosen `version`, try the next number.
            if version is not None:
                raise
