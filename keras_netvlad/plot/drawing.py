"""What every picture starts from: a figure of its own, colours, images as they are drawn."""

import numbers

import keras
import numpy as np

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, ORANGE, VERMILLION, GREY = "#0072B2", "#E69F00", "#D55E00", "#BBBBBB"


def check_installed():
    """Raises an ImportError that names the extra if Matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("Pictures need Matplotlib: pip install 'keras_netvlad[plot]'") from error


def new_figure(width, height):
    """A figure that pyplot does not know: it needs no display and goes when the last reference goes."""
    check_installed()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def color_map(name="viridis"):
    """A colour map that shows what there is no value for in grey."""
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=GREY)


def as_numbers(name, values):
    """Values as a float64 array, also those of a tensor that gradients flow through."""
    try:
        return np.asarray(keras.ops.convert_to_numpy(values) if keras.ops.is_tensor(values) else values, "float64")
    except (TypeError, ValueError):
        raise TypeError(
            f"`{name}` must be an array of numbers without gaps. Received: a {type(values).__name__}"
        ) from None


def check_assignments(assignments, call):
    """Assignments of one video `(N, K)` as float64; `call` shows how to get them."""
    assignments = as_numbers("assignments", assignments)
    if assignments.ndim != 2 or not assignments.size:
        raise ValueError(
            f"`assignments` must be those of one video, (frames, clusters), such as {call}. "
            f"Received: shape {assignments.shape}"
        )
    return check_range(assignments)


def check_range(assignments):
    """The assignments, or an error where one is negative or infinite. NaN may stand where there is none."""
    if (assignments < 0).any() or np.isinf(assignments).any():
        raise ValueError(
            "`assignments` must be finite and 0 or more, as `layer.assign` gives them. "
            f"Received: values from {np.nanmin(assignments):.3g} to {np.nanmax(assignments):.3g}"
        )
    return assignments


def check_positive(name, value):
    """The value, or an error if it is no integer above 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return int(value)


def check_image(name, image):
    """An image `(H, W)` or `(H, W, 3)` that Matplotlib draws as it is: bytes, or floats from 0 to 1."""
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


def shortened(text, length):
    """A label of at most `length` characters; what tells long names apart is mostly at their end."""
    text = " ".join(str(text).split())
    return text if len(text) <= length else f"{text[: length // 3]}…{text[len(text) - length + length // 3 + 1 :]}"


def wrapped(title, width):
    """A title broken into lines that a figure of `width` inches holds."""
    import textwrap

    return "\n".join(textwrap.wrap(str(title), max(20, int(10 * width)), max_lines=3, placeholder=" …"))
