"""Models of Keras 2 with the NetVLAD of one of its ports: cartwheel, crlz182, NHGJem and TensorFlow Addons."""

from collections import Counter
from typing import Any, NamedTuple

import keras

from keras_netvlad.base.names import DESCRIPTOR
from keras_netvlad.convert.networks.crlz182 import crlz182, is_crlz182
from keras_netvlad.convert.networks.keras2_graph import MODELS, Config, calls, connect, layers_of, name_of, outputs_of
from keras_netvlad.convert.networks.keras2_layers import call_layer, keras2_layer, layer_name, reason_of
from keras_netvlad.convert.networks.tensors import Tensors, assign
from keras_netvlad.convert.rows import reorder_rows
from keras_netvlad.convert.tensor_files import listed
from keras_netvlad.layers.netvlad import NetVLAD


class Port(NamedTuple):
    """A NetVLAD of Keras 2.

    Attributes:
        ranks: Number of axes of its weights: assignment kernel, centroids and bias.
        negated: Whether it adds its centroids to the features.
        feature_major: Whether its descriptor is ordered by feature.
        kernel_l2: L2 regularization of its kernel; or `None`.
    """

    ranks: tuple[int, int, int]
    negated: bool
    feature_major: bool
    kernel_l2: float | None = None


PORTS = {
    "NetVLAD": Port((4, 5, 1), True, True),  # crlz182, NHGJem
    "NetVLADLayer": Port((4, 5, 3), True, False),  # cartwheel
    "GhostVLADLayer": Port((4, 5, 3), True, False),  # cartwheel
    "Addons>NetVLAD": Port((2, 3, 1), False, True, 1e-5),
}
# Name of an input of pictures. Other inputs keep their names.
IMAGES = "images"


def is_keras2(tensors: Tensors) -> bool:
    """Returns whether the file has a model of Keras 2 with one of the ports, or weights of crlz182."""
    return is_crlz182(tensors) or any(_is_port(layer) for layer in layers_of(tensors.config))


def keras2(tensors: Tensors) -> keras.Model:
    """Returns the model of a whole-model `.h5` file, whose NetVLAD is one of this package.

    The other layers are rebuilt with Keras's own classes. The model has one input, `images` `(B, H, W, 3)` for
    pictures, with the values that the published model takes. The output `descriptor` has the order of the published
    model: if a Dense layer follows the NetVLAD, its rows are reordered, otherwise the descriptor.

    Args:
        tensors: Tensors of the file, with its configuration.

    Raises:
        ValueError: If the file has no configuration, a layer has no equivalent, or weights are missing or unknown.
    """
    if is_crlz182(tensors):
        return crlz182(tensors)
    if not is_keras2(tensors):
        kinds = {str(layer.get("class_name")) for layer in layers_of(tensors.config)}
        raise ValueError(
            "The file must have a whole model of Keras 2, written with `model.save('model.h5')`, with a layer of the "
            f"class {', '.join(PORTS)}. Received: {f'a model of {listed(kinds)}' if kinds else 'weights alone'}"
        )
    try:
        return _WholeModel(tensors).build()
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ValueError) and "Received: " in str(error):  # a sentence of this package
            raise
        raise ValueError(
            "The configuration of the model must be as Keras 2 wrote it; save the model again. Received: "
            f"{type(error).__name__}, {reason_of(error)}"
        ) from error


class _WholeModel:
    """Rebuilds the model of a file layer by layer, and assigns the weights.

    Args:
        tensors: Tensors of the file.
    """

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._config: Config = tensors.config or {}
        self._dense = _dense_behind_ports(self._config)
        # Number of clusters and features of the port before a Dense layer, by the name of the Dense layer.
        self._sizes: dict[str, tuple[int, int]] = {}
        self._made: dict[str, list[keras.Layer]] = {}

    def build(self) -> keras.Model:
        self._check_names()
        inputs, outputs = connect(self._config, self._run, IMAGES)
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(
                "A model of Keras 2 must have one input and one output; save the part of it that computes the "
                f"descriptor. Received: {len(inputs)} inputs and {len(outputs)} outputs"
            )
        descriptor = keras.layers.Activation("linear", dtype="float32", name=DESCRIPTOR)(outputs[0])
        return keras.Model({inputs[0].name: inputs[0]}, {DESCRIPTOR: descriptor}, name=_model_name(self._config))

    def _check_names(self) -> None:
        names = Counter(name_of(layer) for layer in layers_of(self._config))
        unknown = [name for name, weights in self._tensors.layers.items() if weights and name not in names]
        repeated = [name for name, number in names.items() if number > 1]
        if unknown or repeated:
            raise ValueError(
                f"{self._tensors.form} must have one layer for the weights of each name. Received: weights of "
                f"{listed([*unknown, *repeated])}"
            )

    def _run(self, layer: Config, x: Any) -> Any:
        name = name_of(layer)
        if name in self._made:
            return self._through(self._made[name], x)
        if _is_port(layer):
            self._made[name] = self._pooling(layer)
            return self._through(self._made[name], x)
        if layer["class_name"] in MODELS:
            made, trained, fixed = _inner_model(layer, self._tensors.largest)
            variables = [*trained, *fixed]
            x = self._through([made], x)
        else:
            made = keras2_layer(layer["class_name"], layer["config"])
            x = self._through([made], x)
            variables = [*made.trainable_weights, *made.non_trainable_weights]
        self._made[name] = [made]
        self._assign(name, variables)
        return x

    def _through(self, layers: list[keras.Layer], x: Any) -> Any:
        for layer in layers:
            x = call_layer(layer, x, self._tensors.largest)
        return x

    def _assign(self, name: str, variables: list[keras.Variable]) -> None:
        """Assigns the weights of a layer, or of a model in the model, in the order of Keras 2."""
        names = self._tensors.layers.get(name, [])
        if len(names) != len(variables):
            raise ValueError(
                f"{self._tensors.form} must have the {len(variables)} weights of its layer {name}, "
                f"{listed(variable.path for variable in variables)}. Received: {listed(names)}"
            )
        for variable, tensor in zip(variables, names, strict=True):
            value = self._tensors.read(tensor)
            if name in self._sizes and value.ndim == 2:
                value = reorder_rows(value, *self._sizes[name])
            assign(variable, value, tensor)

    def _pooling(self, layer: Config) -> list[keras.Layer]:
        """Returns the NetVLAD of a port, and the layers that give its descriptor the order of the port."""
        name, options, port = name_of(layer), layer["config"], PORTS[layer["class_name"]]
        names = self._tensors.layers.get(name, [])
        found = [(value.ndim, value) for value in map(self._tensors.read, names)]
        weights = dict(found)
        kernel, centroids, bias = (weights.pop(rank, None) for rank in port.ranks)
        if kernel is None or centroids is None or weights or len(found) > 3 - (bias is None):
            raise ValueError(
                f"The {layer['class_name']} {name} must have a kernel, centroids and at most one bias, of "
                f"{', '.join(map(str, port.ranks))} axes. Received: shapes "
                f"{', '.join(str(value.shape) for _, value in found) or 'none'}"
            )
        num_ghosts = int(options.get("num_ghost_clusters", 0))
        is_plain = bool(options.get("skip_postnorm"))
        pooling = NetVLAD(
            kernel.shape[-1] - num_ghosts,
            num_ghost_clusters=num_ghosts,
            assignment="conv" if kernel.ndim == 4 else "dense",
            use_bias=bias is not None,
            intra_normalization=not is_plain,
            output_normalization=not is_plain,
            kernel_regularizer=port.kernel_l2 and keras.regularizers.L2(port.kernel_l2),
            name=layer_name(name),
        )
        pooling.build((None, None, None, kernel.shape[-2]) if kernel.ndim == 4 else (None, None, kernel.shape[-2]))
        num_clusters, size = pooling.num_clusters, pooling.feature_size
        # Ghost clusters have centroids in the file, which no descriptor depends on.
        centroids = centroids.reshape(centroids.shape[-2:]).T[:num_clusters]
        assign(pooling.kernel, kernel, f"{name}/kernel")
        assign(pooling.centroids, -centroids if port.negated else centroids, f"{name}/cluster_centers")
        if bias is not None:
            assign(pooling.bias, bias.reshape(-1), f"{name}/bias")
        if is_plain:
            return [pooling, keras.layers.Reshape((num_clusters, size))]
        if not port.feature_major:
            return [pooling]
        if name in self._dense:
            self._sizes[self._dense[name]] = num_clusters, size
            return [pooling]
        return [
            pooling,
            keras.layers.Reshape((num_clusters, size)),
            keras.layers.Permute((2, 1)),
            keras.layers.Flatten(name=f"{pooling.name}_feature_major"),
        ]


def _inner_model(config: Config, largest: int) -> tuple[keras.Model, list[keras.Variable], list[keras.Variable]]:
    """Returns a model in the model, and its weights in the order of Keras 2: those that are trained, and the others."""
    made: dict[str, tuple[Any, list[keras.Variable], list[keras.Variable]]] = {}

    def run(layer: Config, x: Any) -> Any:
        name = name_of(layer)
        if name not in made:
            if _is_port(layer):
                raise ValueError(
                    f"The {layer['class_name']} must be a layer of the whole model; save a model without other models "
                    f"in it. Received: {name} in {name_of(config)}"
                )
            if layer["class_name"] in MODELS:
                made[name] = _inner_model(layer, largest)
            else:
                single = keras2_layer(layer["class_name"], layer["config"])
                x = call_layer(single, x, largest)
                made[name] = single, single.trainable_weights, single.non_trainable_weights
                return x
        return call_layer(made[name][0], x, largest)

    inputs, outputs = connect(config, run)
    # The order of the configuration, which can be another than that of the calls.
    parts = [made[name] for name in map(name_of, layers_of(config)) if name in made]
    trained = [variable for part in parts for variable in part[1]]
    fixed = [variable for part in parts for variable in part[2]]
    inputs = inputs[0] if len(inputs) == 1 else inputs
    return keras.Model(inputs, outputs[0], name=layer_name(name_of(config))), trained, fixed


def _dense_behind_ports(config: Config) -> dict[str, str]:
    """Returns the names of Dense layers that alone take the descriptor of a port, by the name of the port."""
    every = calls(config)
    classes = {name_of(call.layer): call.layer["class_name"] for call in every}
    takers: dict[str, list[str]] = {}
    for call in every:
        for source, _ in call.sources:
            takers.setdefault(source, []).append(name_of(call.layer))
    outputs = [name for name, _ in outputs_of(config)]
    num_calls = Counter(name_of(call.layer) for call in every)
    return {
        name: takers[name][0]
        for name, kind in classes.items()
        if kind in PORTS and name not in outputs and len(takers.get(name, [])) == 1
        if classes[takers[name][0]] == "Dense" and num_calls[takers[name][0]] == 1
    }


def _is_port(layer: Config) -> bool:
    return str(layer.get("class_name")) in PORTS


def _model_name(config: Config) -> str:
    options = config["config"]
    return layer_name(options.get("name") if isinstance(options, dict) else None) or "sequential"
