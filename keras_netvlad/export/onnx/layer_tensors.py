"""`LayerTensors`: runs an ONNX file and returns the tensors with which its layers end."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx

from keras_netvlad.export.onnx.graph_view import GraphView

# The file stays where it is, and so do weights in a second file.
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class LayerTensors:
    """Runs an ONNX file and returns the tensors with which its layers end.

    The exporter names each node after its layer, as in `encoder/conv/Add`. The tensors of a layer are those that its
    nodes produce and that other nodes read, and the outputs of the graph. A layer can have several: that of its result
    and, for example, that of a mask. The graph runs without onnxruntime's optimizations, which would merge nodes.

    Args:
        path: Path of an ONNX file that this package has written.
        repeated: Layers that the model calls more than once, each as names of the layers around it and its own name.
            All calls of a layer have the same name in the file, and one may read the result of another, so all tensors
            of the layer belong to its results.
    """

    def __init__(self, path: str | os.PathLike[str], repeated: Collection[tuple[str, ...]] = ()) -> None:
        import onnxruntime  # only verification needs it

        proto = onnx.load(path, load_external_data=False)
        self._view = GraphView(proto.graph)
        self._repeated = set(repeated)
        self._found: dict[tuple[str, ...], list[str]] = {}
        others = [name for name in self._view.makers if name and name not in self._view.outputs]
        added = [name for name in others if self._ends_a_layer(name)]
        self._names = [*(value.name for value in proto.graph.output), *added]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in added)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry(WEIGHTS_FOLDER, str(Path(path).absolute().parent))
        self._session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def of_layer(self, layer: tuple[str, ...]) -> list[str]:
        """Returns the names of the tensors with which a layer ends.

        Args:
            layer: Names of the layers around the layer, and its own name.

        Returns:
            Names of tensors. Empty if no node of the file is named after the layer.
        """
        if layer not in self._found:
            self._found[layer] = [name for name in self._names if self._ends(name, layer)]
        return self._found[layer]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the values of the tensors of all layers, by name."""
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))

    def _ends(self, name: str, layer: tuple[str, ...]) -> bool:
        """Returns whether a tensor leaves a layer."""
        if name not in self._view.makers or not _is_in(self._view.makers[name], layer):
            return False
        if layer in self._repeated or name in self._view.outputs:
            return True
        return any(not _is_in(reader, layer) for reader in self._view.readers.get(name, []))

    def _ends_a_layer(self, name: str) -> bool:
        """Returns whether a tensor leaves the innermost layer around its node, or belongs to a repeated layer."""
        layer = _layer_of(self._view.makers[name])
        return any(self._ends(name, layer[:depth]) for depth in range(1, len(layer) + 1))


def _layer_of(node: onnx.NodeProto) -> tuple[str, ...]:
    return tuple(node.name.split("/")[:-1])


def _is_in(node: onnx.NodeProto, layer: tuple[str, ...]) -> bool:
    return _layer_of(node)[: len(layer)] == layer
