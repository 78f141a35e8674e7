"""Figures, colors, and checks of arrays and images for all plots."""

import textwrap
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Colors of Okabe and Ito, which color-blind readers can distinguish.
BLUE, ORANGE, VERMILION, GRAY = "#0072B2", "#E69F00", "#D55E00", "#BBBBBB"


def check_installed() -> None:
    """Raises an ImportError that names the extra if Matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Pictures need Matplotlib, which is not installed. Install it with `pip install 'keras_netvlad[plot]'`."
        ) from error


def new_figure(width: float, height: float) -> "Figure":
    """Returns a figure that is not registered with pyplot, so that it needs no display and is freed normally."""
    check_installed()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def color_map(name: str = "viridis") -> "Colormap":
    """Returns a color map that shows NaN in gray."""
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=GRAY)


def as_numbers(name: str, values: Any) -> NDArray[np.float64]:
    """Returns values, also those of a tensor with gradients, as a float64 array."""
    try:
        return np.asarray(keras.ops.convert_to_numpy(values) if keras.ops.is_tensor(values) else values, "float64")
    except (TypeError, ValueError):
        raise TypeError(
            f"`{name}` must be an array of numbers without gaps. Received: a {type(values).__name__}"
        ) from None


def check_assignments(assignments: Any, call: str) -> NDArray[np.float64]:
    """Returns the assignments of one video `(N, K)` as float64. `call` shows in the message how to get them."""
    assignments = as_numbers("assignments", assignments)
    if assignments.ndim != 2 or not assignments.size:
        raise ValueError(
            f"`assignments` must be those of one video, (frames, clusters), such as {call}. "
            f"Received: shape {assignments.shape}"
        )
    return check_range(assignments)


def check_range(assignments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the assignments, or raises if one is negative or infinite. NaN marks frames without assignment."""
    if (assignments < 0).any() or np.isinf(assignments).any():
        raise ValueError(
            "`assignments` must be finite and 0 or more, as `layer.assign` gives them. "
            f"Received: values from {np.nanmin(assignments):.3g} to {np.nanmax(assignments):.3g}"
        )
    return assignments


def check_image(name: str, image: Any) -> NDArray[Any]:
    """Returns an image `(H, W)` or `(H, W, 3)` of bytes or of floats from 0 to 1, as Matplotlib expects it."""
    image = keras.ops.convert_to_numpy(image) if keras.ops.is_tensor(image) else np.asarray(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if not image.size or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"`{name}` must be (height, width) or (height, width, 3). Received: shape {image.shape}")
    if image.dtype == np.uint8:
        return image
    image = image.astype("float64")
    if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
        raise ValueError(
            f"`{name}` must hold bytes (uint8), or floats from 0 to 1; undo the preprocessing of the network first. "
            f"Received: values from {np.nanmin(image):.3g} to {np.nanmax(image):.3g}"
        )
    return image


def shortened(text: object, length: int) -> str:
    """Returns a label of at most `length` characters. It keeps more of the end, where long names mostly differ."""
    text = " ".join(str(text).split())
    return text if len(text) <= length else f"{text[: length // 3]}…{text[len(text) - length + length // 3 + 1 :]}"


def wrapped(title: object, width: float) -> str:
    """Returns a title broken into lines that fit a figure of `width` inches."""
    return "\n".join(textwrap.wrap(str(title), max(20, int(10 * width)), max_lines=3, placeholder=" …"))
