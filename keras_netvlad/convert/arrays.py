"""`from_arrays`: makes a NetVLAD of given weights. All weights are checked before anything is made or changed."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import ArrayLike, NDArray

from keras_netvlad.base.validation import check_boolean
from keras_netvlad.layers.netvlad import NetVLAD

BATCH_NORMALIZATION_NAMES = ("gamma", "beta", "moving_mean", "moving_variance")


def from_arrays(
    kernel: ArrayLike,
    centroids: ArrayLike,
    bias: ArrayLike | None = None,
    batch_normalization: dict[str, ArrayLike] | None = None,
    *,
    negated: bool = False,
    normalize_input: bool = False,
    intra_normalization: bool = True,
    output_normalization: bool = True,
    layer: NetVLAD | None = None,
    **options: Any,
) -> NetVLAD:
    """Makes a `NetVLAD` of given weights, or assigns them to a given layer.

    All other converters call this function. Call it directly for other formats.

    Args:
        kernel: Array `(D, K)` or, for a layer with `assignment="conv"`, `(1, 1, D, K)`: the logits are `x W`.
        centroids: Array `(K, D)`.
        bias: Array `(K,)`, or `None` for an assignment without bias.
        batch_normalization: `None`, or a mapping of `"moving_mean"`, `"moving_variance"` and, where there are any,
            `"gamma"` and `"beta"`, `(K,)` each, for an assignment with batch normalization instead of a bias. The
            epsilon is 1e-3, as in Keras and TF-Slim.
        negated: Boolean, whether the source stores `-c` and adds it to the features (`x + C`).
        normalize_input: Boolean, whether the source scales each feature to unit L2 norm first.
        intra_normalization: Boolean, whether the source scales the residuals of each cluster to unit L2 norm.
        output_normalization: Boolean, whether the source scales the output to unit L2 norm.
        layer: `NetVLAD` that receives the weights, or `None` to make a new one. Its options must match the source. Its
            assignment may be dense or conv.
        **options: Other arguments of `NetVLAD` for a new layer, such as `name`, `dtype` and `data_format`.

    Returns:
        The built `NetVLAD`: the given `layer`, or a new one.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.convert import from_arrays
    >>> rng = np.random.default_rng(0)
    >>> centroids = rng.normal(size=(8, 64))
    >>> layer = from_arrays(2 * centroids.T, centroids, bias=-np.sum(centroids**2, axis=1))
    >>> layer(rng.normal(size=(2, 300, 64))).shape[1]
    512

    Raises:
        ValueError: If shapes do not match, values are not finite, or a given layer has other options or sizes. A given
            layer is then unchanged.
        TypeError: If `layer` is not a `NetVLAD`, or an array does not contain numbers.
    """
    check_boolean("negated", negated)
    normalizations = {
        "normalize_input": normalize_input,
        "intra_normalization": intra_normalization,
        "output_normalization": output_normalization,
    }
    for name, value in normalizations.items():
        check_boolean(name, value)
    weights = _checked_weights(kernel, centroids, bias, batch_normalization)
    if negated:
        weights["centroids"] = -weights["centroids"]
    num_clusters, feature_size = weights["centroids"].shape
    determined = {
        "num_clusters": num_clusters,
        "num_ghost_clusters": 0,
        "use_bias": bias is not None or "batch_normalization.beta" in weights,
        "assignment_batch_normalization": batch_normalization is not None,
        **normalizations,
    }
    if layer is None:
        determined["assignment"] = "conv" if weights["kernel"].ndim == 4 else "dense"
        layer = NetVLAD(**determined, **_check_options(options, determined))
    else:
        _check_layer(layer, determined, feature_size, options)
    kernel_shape = (1, 1, feature_size, num_clusters) if layer.assignment == "conv" else (feature_size, num_clusters)
    weights["kernel"] = weights["kernel"].reshape(kernel_shape)
    weights = {path: _cast(layer, path, value) for path, value in weights.items()}
    if not layer.built:
        layer.build((None, None, feature_size))
    for path, array in weights.items():
        attrgetter(path)(layer).assign(array)
    return layer


def _checked_weights(
    kernel: Any, centroids: Any, bias: Any, batch_normalization: Any
) -> dict[str, NDArray[np.float64]]:
    """Returns float64 arrays by the name of their attribute of `NetVLAD`, or raises if their shapes do not match."""
    weights = {"kernel": as_numbers("kernel", kernel), "centroids": as_numbers("centroids", centroids)}
    shape = weights["centroids"].shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"`centroids` must be of shape (clusters, features); transpose or squeeze them. Received: shape {shape}"
        )
    num_clusters, feature_size = shape
    allowed = [(feature_size, num_clusters), (1, 1, feature_size, num_clusters)]
    if weights["kernel"].shape not in allowed:
        raise ValueError(
            f"The assignment kernel must be of shape {allowed[0]} or {allowed[1]} for {num_clusters} centroids of "
            f"{feature_size} features; transpose or squeeze it. Received: shape {weights['kernel'].shape}"
        )
    offsets = {} if bias is None else {"bias": bias}
    if batch_normalization is not None:
        offsets |= {
            f"batch_normalization.{name}": value
            for name, value in _check_batch_normalization(batch_normalization, bias, num_clusters).items()
        }
    for name, value in offsets.items():
        value = as_numbers(name, value)
        if value.shape != (num_clusters,):
            raise ValueError(
                f"`{name}` must be of shape ({num_clusters},), one value for each cluster; squeeze it. "
                f"Received: shape {value.shape}"
            )
        weights[name] = value
    if np.any(weights.get("batch_normalization.moving_variance", 0.0) < 0):
        raise ValueError(
            "The moving variance must not be negative; it may have been exchanged with the moving mean. "
            f"Received: values from {weights['batch_normalization.moving_variance'].min()}"
        )
    return weights


def _check_batch_normalization(batch_normalization: Any, bias: Any, num_clusters: int) -> dict[str, Any]:
    received = sorted(batch_normalization) if isinstance(batch_normalization, dict) else batch_normalization
    is_known = isinstance(batch_normalization, dict) and set(batch_normalization) <= set(BATCH_NORMALIZATION_NAMES)
    if not is_known or not {"moving_mean", "moving_variance"} <= set(batch_normalization):
        raise ValueError(
            "`batch_normalization` must be a dict of moving_mean, moving_variance and, where there are any, gamma and "
            f"beta. Received: {received}"
        )
    if bias is not None:
        raise ValueError(
            "An assignment is biased or batch-normalized, not both; subtract the bias from `moving_mean` and leave it "
            "out. Received: bias and batch_normalization"
        )
    # A batch normalization without scale has a gamma of 1.
    return {"gamma": np.ones(num_clusters), **batch_normalization}


def _check_options(options: dict[str, Any], determined: Mapping[str, Any]) -> dict[str, Any]:
    clashing = sorted(set(options) & set(determined))
    if clashing:
        raise ValueError(
            f"The weights themselves decide {', '.join(determined)}; leave them out. Received: {', '.join(clashing)}"
        )
    return options


def _check_layer(layer: Any, determined: Mapping[str, Any], feature_size: int, options: Mapping[str, Any]) -> None:
    """Raises if a given layer would compute something else than the source."""
    if not isinstance(layer, NetVLAD):
        raise TypeError(
            f"`layer` must be a keras_netvlad.NetVLAD, or None to make one. Received: {type(layer).__name__}"
        )
    if options:
        raise ValueError(
            "Options are for a new layer; leave them out if you pass `layer`, which has its own. "
            f"Received: {', '.join(sorted(options))}"
        )
    different = {name: value for name, value in determined.items() if getattr(layer, name) != value}
    if different:
        wanted = ", ".join(f"{name}={value}" for name, value in different.items())
        received = ", ".join(f"{name}={getattr(layer, name)}" for name in different)
        raise ValueError(
            f"`{layer.name}` must have the options of the weights, {wanted}; set them, or leave out `layer`. "
            f"Received: {received}"
        )
    if layer.feature_size not in (None, feature_size):
        raise ValueError(
            f"`{layer.name}` must be built for the weights' features of size {feature_size}; give a layer that is not "
            f"built yet. Received: a layer built for size {layer.feature_size}"
        )


def _cast(layer: NetVLAD, path: str, value: NDArray[np.float64]) -> Any:
    dtype = layer.sum_dtype if path.startswith("batch_normalization") else layer.variable_dtype
    with np.errstate(over="ignore"):
        cast = ops.cast(value, dtype)
    if not np.isfinite(ops.convert_to_numpy(ops.cast(cast, "float32"))).all():
        raise ValueError(
            f"The weights must fit the layer's {dtype} variables; use a dtype policy with float32 variables. "
            f"Received: {path} with values up to {np.abs(value).max():.3g}"
        )
    return cast


def as_numbers(name: str, value: Any) -> NDArray[np.float64]:
    """Returns a finite float64 array, or raises an error with the name of the tensor."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise TypeError(
            f"`{name}` must hold real numbers; give the weights as arrays. Received: dtype {array.dtype.name}"
        )
    array = array.astype("float64")
    if not np.isfinite(array).all():
        raise ValueError(
            f"`{name}` must be finite; take a checkpoint from before training diverged. "
            f"Received: {int((~np.isfinite(array)).sum())} values that are NaN or infinite"
        )
    return array
