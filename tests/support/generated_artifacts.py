"""Exports a generated model and compares its artifact with the model, without the verification of the package."""

import functools
import re
import types
from dataclasses import dataclass

import keras
import numpy as np
import onnxruntime
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from generated_models import ADDITIVE, FRAME_BY_FRAME, IS_ODD, build
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from keras_netvlad.export import ParityError, export_litert, export_onnx, export_saved_model, publish

# Largest difference, relative to the largest magnitude of an output.
TOLERANCES = {"float32": 2e-4, "mixed_bfloat16": 5e-2, "mixed_float16": 1e-2, "int8": 3e-2, "float8": 3e-2}


@dataclass
class Outcome:
    """The result for one artifact: "exported", "refused" or "wrong", with the refusal or the faults."""

    kind: str
    details: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()


def check(description, file_format, directory):
    """Builds, exports and compares. Returns an `Outcome`."""
    built = build(description)
    comparison = _Comparison(description, built)
    try:
        artifact = _export(built.model, file_format, directory)
    except Exception as error:
        fault = _why_refusal_is_wrong(comparison, error, file_format, directory)
        return Outcome("wrong", (fault,)) if fault else Outcome("refused", (str(error),))
    faults = comparison.faults(artifact)
    return Outcome("wrong" if faults else "exported", tuple(faults), tuple(artifact.names))


def _export(model, file_format, directory, verify=True):
    if file_format == "onnx":
        path = directory / "model.onnx"
        export_onnx(model, path, verify=verify)
        return _OnnxArtifact(path)
    if file_format == "litert":
        path = directory / "model.tflite"
        export_litert(model, path, verify=verify)
        return _LitertArtifact(path)
    if verify:
        publish(model, directory / "models", warmup_frames=())
        return _SavedModelArtifact(directory / "models" / model.name / "1")
    export_saved_model(model, directory / "unverified", verify=False)
    return _SavedModelArtifact(directory / "unverified")


class _SavedModelArtifact:
    def __init__(self, path):
        self.loaded = tf.saved_model.load(str(path))
        self.names = sorted(self.loaded.signatures)
        parameters = path / "batching_params.pbtxt"
        self.is_padded = parameters.is_file() and "pad_variable_length_inputs: true" in parameters.read_text()

    def inputs(self, name):
        return dict(self.loaded.signatures[name].structured_input_signature[1].items())

    def run(self, name, values):
        specs = self.inputs(name)
        tensors = {key: tf.constant(values[key], spec.dtype) for key, spec in specs.items()}
        return {key: value.numpy() for key, value in self.loaded.signatures[name](**tensors).items()}


class _OnnxArtifact:
    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = ["serving_default"]
        self.is_padded = False

    def run(self, name, values):
        keys = [port.name for port in self.session.get_outputs()]
        feeds = {port.name: values[port.name] for port in self.session.get_inputs()}
        return dict(zip(keys, self.session.run(keys, feeds), strict=True))


class _LitertArtifact:
    def __init__(self, path):
        self.interpreter = Interpreter(str(path), num_threads=1)
        self.names = sorted(self.interpreter.get_signature_list())
        self.is_padded = False

    def inputs(self, name):
        details = self.interpreter.get_signature_runner(name).get_input_details()
        return {key: types.SimpleNamespace(shape=port["shape_signature"]) for key, port in details.items()}

    def run(self, name, values):
        runner = self.interpreter.get_signature_runner(name)
        return runner(**{key: values[key].astype(port["dtype"]) for key, port in runner.get_input_details().items()})


class _Comparison:
    """Compares an artifact with the model that it was made from."""

    def __init__(self, description, built):
        self.description, self.built, self.model = description, built, built.model
        self.generator = np.random.default_rng(description.seed)
        self.tolerance = TOLERANCES[description.policy]
        if any(stream.pooling == "NetVLAD bfloat16" for stream in description.streams):
            self.tolerance = max(self.tolerance, 5e-2)
        structure = self.model.input
        tensors = structure if isinstance(structure, dict) else {t.name: t for t in self.model.inputs}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.dtypes = {name: keras.backend.standardize_dtype(tensor.dtype) for name, tensor in tensors.items()}
        # In the order of the tensors, which `build` made in the order of `kinds`.
        self.kinds = dict(zip(self.shapes, built.kinds.values(), strict=True))
        self.count = next((name for name, kind in self.kinds.items() if kind == "count"), None)
        # A graph, as in `predict`: one trace for all lengths. Outside a graph, a layer refuses NaN in a mask, and Keras
        # takes the sum of (1, T, T) and (1, T, 1) for the addition of a bias.
        specs = {name: tf.TensorSpec(shape, self.dtypes[name], name="x") for name, shape in self.shapes.items()}
        self.graph = tf.function(
            lambda inputs: self.model(inputs, training=False), autograph=False, input_signature=[self._structure(specs)]
        )
        self.sides = (3, 5) if any(len(shape) > 3 and shape[-2] is None for shape in self.shapes.values()) else (3,)

    def faults(self, artifact):
        """Returns one sentence for each difference, at most one per kind."""
        checks = [self._whole, self._batched]
        if {"accumulate", "describe"} & set(artifact.names):
            checks.append(self._chunks)
        if "serve_quantized" in artifact.names:
            checks.append(self._bytes)
        if "serve_examples" in artifact.names:
            checks.append(self._examples)
        faults = []
        for run in checks:
            try:
                fault = run(artifact)
            except Exception as error:
                fault = f"{run.__name__}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if fault:
                faults.append(fault)
        if isinstance(artifact, _SavedModelArtifact):
            if self._is_plain_stream() and "accumulate" not in artifact.names:
                faults.append("accumulate is not offered for a model that pools frame by frame")
            if self._is_plain_stream() and not artifact.is_padded:
                faults.append("the server is not told to pad though num_frames excludes the padding")
        return faults

    # Inputs

    @functools.cached_property
    def lengths(self):
        """Up to three lengths of videos that the model accepts."""
        accepted = []
        for length in (1, 2, 3, 4, 7):
            try:
                self.reference(self.draw(1, length))
                accepted.append(length)
            except tf.errors.InvalidArgumentError:  # too short for a convolution
                continue
        if not accepted:
            raise AssertionError("the generated model accepts no length")
        return accepted[:1] + accepted[-2:]

    def draw(self, batch, length, num_frames=None, side=3):
        """Returns inputs with random values and, beyond `num_frames`, zeros."""
        values = {}
        num_frames = [length] * batch if num_frames is None else num_frames
        for name, shape in self.shapes.items():
            kind, dtype = self.kinds[name], self.dtypes[name]
            if kind == "count":
                values[name] = np.array(num_frames, dtype)
                continue
            sizes = [batch, length if self.has_time(name) else side, side, side + 1]
            full = [sizes[axis] if size is None else size for axis, size in enumerate(shape)]
            if dtype == "uint8":
                values[name] = self.generator.integers(1, 256, full).astype("uint8")
            else:
                values[name] = self.generator.normal(size=full).astype(dtype)
                if kind == "weights":
                    values[name] = np.abs(values[name]) + np.float32(0.1)
        return self.pad(values, 0)

    def has_time(self, name):
        kind, shape = self.kinds.get(name), self.shapes.get(name)
        return kind == "weights" or (kind == "stream" and len(shape) != 4)

    def pad(self, values, filler):
        """Returns inputs whose frames beyond `num_frames` hold `filler`, or the first element for `None`."""
        if self.count is None:
            return values
        padded = dict(values)
        for name, array in values.items():
            if not self.has_time(name):
                continue
            is_real = np.arange(array.shape[1]) < values[self.count][:, None]
            if not array.size:  # a chunk without frames
                continue
            fill = array.flat[0] if filler is None else filler
            if array.dtype == np.uint8 and isinstance(fill, float):
                fill = 255
            padded[name] = np.where(
                is_real.reshape(is_real.shape + (1,) * (array.ndim - 2)), array, np.asarray(fill, array.dtype)
            )
        return padded

    def reference(self, values):
        """Returns the outputs of the Keras model by name."""
        outputs = self.graph(self._structure({name: tf.constant(value) for name, value in values.items()}))
        if not isinstance(outputs, dict):
            outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
            outputs = dict(zip(self.model.output_names, outputs, strict=True))
        return {name: np.asarray(value, "float32") for name, value in outputs.items()}

    def cannot_be_litert(self):
        """Whether the file that TensorFlow alone writes, too, does not compute the model with LiteRT's operators."""
        specs = [tf.TensorSpec(shape, self.dtypes[name]) for name, shape in self.shapes.items()]

        @tf.function(autograph=False, input_signature=specs)
        def call(*tensors):
            outputs = self.model(self._structure(dict(zip(self.shapes, tensors, strict=True))), training=False)
            return tf.nest.flatten(outputs)

        frozen = convert_variables_to_constants_v2(call.get_concrete_function())
        values = list(self.draw(1, self.lengths[-1]).values())
        try:
            converted = tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert()
            interpreter = Interpreter(model_content=converted, num_threads=1)
            for port, value in zip(interpreter.get_input_details(), values, strict=True):
                interpreter.resize_tensor_input(port["index"], value.shape)
            interpreter.allocate_tensors()
            for port, value in zip(interpreter.get_input_details(), values, strict=True):
                interpreter.set_tensor(port["index"], value)
            interpreter.invoke()
        except Exception:  # both raise classes that they do not publish
            return True
        received = [interpreter.get_tensor(port["index"]) for port in interpreter.get_output_details()]
        expected = [np.asarray(value, "float32") for value in call(*values)]
        return self.difference(dict(enumerate(expected)), dict(enumerate(received)), "LiteRT") is not None

    @property
    def amplifies_rounding(self):
        """Whether the norm of an empty video divides what is zero but for rounding: its frames minus their mean."""
        return any("centered" in stream.before and stream.clears for stream in self.description.streams)

    def _structure(self, values):
        """Arranges a dict by input name as the model's call takes it."""
        if isinstance(self.model.input, dict):
            return {name: values[name] for name in self.shapes}
        arranged = [values[name] for name in self.shapes]
        return arranged if isinstance(self.model.input, (list, tuple)) else arranged[0]

    def difference(self, expected, received, what, lengths=None, tolerance=None):
        """Returns a sentence if two dicts of outputs differ; of outputs by frame, on the first `lengths` only."""
        for name, right in expected.items():
            if name not in received:
                return f"{what}: no output {name!r} in {sorted(received)}"
            value = np.asarray(received[name], "float32")
            if lengths is not None and name in self.built.outputs_by_frame:
                value = value[:, : right.shape[1]]
                shown = np.arange(right.shape[1]) < np.asarray(lengths)[:, None]
                right, value = right[shown], value[shown]
            if right.shape != value.shape:
                return f"{what}: {name} has shape {value.shape}, not {right.shape}"
            if (np.isnan(right) != np.isnan(value)).any():
                return (
                    f"{what}: {name} has NaN in {int(np.isnan(value).sum())} values, not {int(np.isnan(right).sum())}"
                )
            scale = np.nanmax(np.abs(right), initial=0)
            worst = np.nanmax(np.abs(right - value), initial=0)
            if not worst <= (tolerance or self.tolerance) * scale + 1e-6:
                return f"{what}: {name} is off by {worst:.3g} of {scale:.3g}"
        return None

    # Comparisons

    def _whole(self, artifact):
        """`serving_default` on whole videos, with every padding, equals the model on the same inputs."""
        for length in self.lengths:
            for counts in ([length], [max(length - 2, 1), length + 3, int(self.amplifies_rounding)]):
                for side in self.sides:
                    zeros = self.draw(len(counts), length, counts, side)
                    paddings = {"zeros": zeros}
                    if self.count is not None:
                        paddings |= {"first element": self.pad(zeros, None), "NaN": self.pad(zeros, float("nan"))}
                    for title, values in paddings.items():
                        what = f"serving_default, {length} frames of {counts}, padding {title}"
                        received = artifact.run("serving_default", values)
                        fault = self.difference(self.reference(values), received, what)
                        if fault:
                            return fault
        return None

    def _batched(self, artifact):
        """Requests that a server merges get the answers that they get alone."""
        for name in artifact.names:
            if name in ("serving_default", "serve_quantized", "accumulate"):
                fault = self._merged(artifact, name)
                if fault:
                    return fault
        return None

    def _merged(self, artifact, signature):
        sizes = [(self.lengths[0], 3), (self.lengths[-1], 5)] if artifact.is_padded else [(self.lengths[-1], 3)] * 2
        requests = []
        for (length, side), batch in zip(sizes, (1, 2), strict=True):
            request = self.draw(batch, length, [length] * batch, side)
            if signature == "serve_quantized":
                request = self._quantized(request)
            elif signature == "accumulate":
                request = self._with_zero_sums(artifact, request, batch)
            requests.append(request)
        merged = {name: _merge([request[name] for request in requests]) for name in requests[0]}
        received = artifact.run(signature, merged)
        start = 0
        for request, (length, _) in zip(requests, sizes, strict=True):
            rows = len(next(iter(request.values())))
            alone = self.reference(request) if signature == "serving_default" else artifact.run(signature, request)
            part = {name: value[start : start + rows] for name, value in received.items()}
            fault = self.difference(
                alone, part, f"{signature}, merged (padded: {artifact.is_padded}) {sizes}", [length] * rows
            )
            if fault:
                return fault
            start += rows
        return None

    def _chunks(self, artifact):
        """A video in chunks gets the answer that it gets whole."""
        if not {"accumulate", "describe"} <= set(artifact.names):
            return "only one of accumulate and describe is offered"
        length = 7
        counts = [length, 4]
        whole = self.draw(2, length, counts)
        expected = self.reference(whole)
        # LiteRT takes no chunk without frames.
        empty = [] if isinstance(artifact, _LitertArtifact) else [[5, 5, 7]]
        for cuts in [[7], [3, 7], [1, 2, 6, 7], *empty]:
            for filler in (0, None, float("nan")):
                sums, start = self._with_zero_sums(artifact, whole, 2), 0
                for end in cuts:
                    chunk = dict(sums)
                    for name, array in whole.items():
                        chunk[name] = array[:, start:end] if self.has_time(name) else array
                    chunk[self.count] = np.clip(whole[self.count] - start, 0, end - start)
                    sums |= artifact.run("accumulate", self.pad(chunk, filler))
                    start = end
                received = artifact.run("describe", sums)
                fault = self.difference(
                    expected, received, f"accumulate and describe, cut at {cuts}, padding {filler}", counts
                )
                if fault:
                    return fault
        return None

    def _with_zero_sums(self, artifact, values, batch):
        specs = artifact.inputs("accumulate")
        zeros = {
            name: np.zeros([batch, *spec.shape[1:]], "float32")
            for name, spec in specs.items()
            if name not in self.shapes
        }
        return {**values, **zeros}

    def _quantized(self, values):
        return {
            name: self.generator.integers(0, 256, array.shape).astype("uint8")
            if self.kinds[name] == "stream"
            else array
            for name, array in values.items()
        }

    def _floats(self, values):
        return {
            name: _dequantize(array) if self.kinds[name] == "stream" and self.dtypes[name] != "uint8" else array
            for name, array in values.items()
        }

    def _bytes(self, artifact):
        """`serve_quantized` computes from bytes what the model computes from their values."""
        values = self._quantized(self.draw(2, self.lengths[-1]))
        return self.difference(
            self.reference(self._floats(values)), artifact.run("serve_quantized", values), "serve_quantized"
        )

    def _examples(self, artifact):
        """`serve_examples` computes from records what the model computes from their frames."""
        length = self.lengths[-1]
        counts = [length, max(length - 2, 1)]
        values = self._quantized(self.draw(2, length, counts))
        records = []
        for row, count in enumerate(counts):
            lists = {
                name: tf.train.FeatureList(
                    feature=[
                        tf.train.Feature(bytes_list=tf.train.BytesList(value=[frame.tobytes()]))
                        for frame in array[row, :count]
                    ]
                )
                for name, array in values.items()
                if self.kinds[name] == "stream"
            }
            example = tf.train.SequenceExample(feature_lists=tf.train.FeatureLists(feature_list=lists))
            records.append(example.SerializeToString())
        others = {name: array for name, array in values.items() if self.kinds[name] != "stream"}
        received = artifact.run("serve_examples", {**others, "examples": np.array(records, object)})
        expected = self.reference(self.pad(self._floats(values), 0))
        return self.difference(expected, received, "serve_examples", counts)

    # Expectations

    def _is_plain_stream(self):
        """Whether nothing in the model looks at more than one frame, so that every signature has to be offered."""
        description = self.description
        return (
            description.num_frames != "none"
            and description.names in ("plain", "capitals")
            and description.extra == "none"
            and description.head != "by frame"
            and all(
                stream.kind in ("frames", "bytes")
                and stream.mask in ("frames", "gate")
                and stream.pooling in ADDITIVE
                and set(stream.before) <= set(FRAME_BY_FRAME)
                for stream in description.streams
            )
        )

    def padding_matters(self):
        """Whether the frames beyond `num_frames` change an answer of the Keras model."""
        length = self.lengths[-1]
        counts = [max(length - 2, 1), length, 1, 0]
        zeros = self.draw(len(counts), length, counts)
        return any(
            self.difference(
                self.reference(zeros), self.reference(self.pad(zeros, filler)), "padding", counts, self.tolerance / 10
            )
            for filler in (None, float("nan"))
        )

    def length_matters(self):
        """Whether an answer of the Keras model depends on the length to which the video is padded."""
        short, long = self.draw(2, self.lengths[0]), self.draw(2, self.lengths[-1])
        merged = {name: _merge([short[name], long[name]]) for name in short}
        alone, padded = self.reference(short), self.reference(merged)
        padded = {name: value[: len(alone[name])] for name, value in padded.items()}
        return bool(self.difference(alone, padded, "length", short[self.count], self.tolerance / 10))

    def computes_nan(self):
        """Whether the model computes NaN from finite inputs, as `UnitNormalization` does from zeros in float16."""
        drawn = [self.draw(2, 40, [40, 17], side=8) for _ in range(5)]
        return any(np.isnan(output).any() for values in drawn for output in self.reference(values).values())


def _merge(arrays):
    """Merges one input of several requests as TensorFlow Serving does, which pads with the first element of each."""
    sizes = np.max([array.shape[1:] for array in arrays], axis=0) if arrays[0].ndim > 1 else []
    padded = []
    for array in arrays:
        widths = [(0, 0), *((0, int(size - own)) for size, own in zip(sizes, array.shape[1:], strict=True))]
        padded.append(np.pad(array, widths, constant_values=array.flat[0]))
    return np.concatenate(padded)


def _dequantize(values):
    """Returns the values of YouTube-8M's bytes, by the formula of its published code."""
    return (values.astype("float64") * (4 / 255) + (4 / 512 - 2)).astype("float32")


RECURRENT = ("LSTM", "GRU", "bidirectional LSTM", "simple RNN")

# The reasons for which an export is refused, and when each is true.
REASONS = (
    (
        r"Names of inputs and outputs must be|Names of inputs must start with a letter|served model's name must",
        lambda c: c.description.names in IS_ODD,
    ),
    (r"Frames beyond `num_frames` must not change the outputs", lambda c: c.padding_matters()),
    (r"The model must not compute NaN", lambda c: c.computes_nan()),
    (r"The artifact differs from the model beyond", lambda c: c.amplifies_rounding),
    (r"have no float8 values", lambda c: c.description.policy == "float8"),
    (r"must depend neither on the other videos of its batch nor on their length", lambda c: c.length_matters()),
    (
        r"onnxruntime crashes on some loops of float16",
        lambda c: (
            c.description.policy == "mixed_float16"
            and any(layer in RECURRENT for stream in c.description.streams for layer in stream.before)
        ),
    ),
    (r"must be made of operations that LiteRT has", lambda c: c.cannot_be_litert()),
)


def _why_refusal_is_wrong(comparison, error, file_format, directory):
    """Returns a sentence if an export was refused for a reason that is not true, or with another library's error."""
    message = " ".join(str(error).split())
    if not isinstance(error, (ParityError, ValueError)) or re.search(
        r"Traceback|Exception encountered|/usr/|\.py\b", message
    ):
        return f"refused with {type(error).__name__}: {message[:400]}"
    for pattern, is_true in REASONS:
        if re.search(pattern, message):
            return None if is_true(comparison) else f"refused for a reason that is not true: {message[:400]}"
    try:
        faults = comparison.faults(_export(comparison.model, file_format, directory, verify=False))
    except Exception as second:
        faults = [f"without verification: {type(second).__name__}"]
    padding = "matters" if comparison.padding_matters() else "does not matter"
    return f"refused: {message[:400]} | unverified artifact: {faults or 'equals the model'} | padding {padding}"
