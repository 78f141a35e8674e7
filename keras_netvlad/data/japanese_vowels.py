"""The packaged speech frames: Japanese Vowels."""

from importlib import resources

import numpy as np
from numpy.typing import NDArray

Utterances = tuple[dict[str, NDArray], NDArray[np.int32]]


def load_japanese_vowels() -> tuple[Utterances, Utterances]:
    """Loads the Japanese Vowels data set: speech frames of variable length, to tell nine speakers apart.

    It is a real data set that trains in seconds. Each of the 640 utterances of /ae/ has 7 to 29 frames of 12 LPC
    cepstrum coefficients, in the official split. The data are part of this package; nothing is downloaded. Source:
    Kudo, Toyama & Shimbo 1999, UCI Machine Learning Repository, CC BY 4.0.

    Returns:
        `(x_train, y_train), (x_test, y_test)` with 270 and 370 utterances. `x` is a dict ready for
        `VideoClassifier({"frames": 12}, ...)`: `frames` float32 `(U, 29, 12)`, zeros after the last frame, and
        `num_frames` int32 `(U,)`. `y` is int32 `(U,)`, the speaker, 0 to 8.

    Example:

    >>> from keras_netvlad.data import load_japanese_vowels
    >>> (x_train, y_train), (x_test, y_test) = load_japanese_vowels()
    >>> x_train["frames"].shape, x_test["num_frames"].max().item()
    ((270, 29, 12), 29)
    """
    with (
        resources.files(__package__).joinpath("japanese_vowels.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        all_frames, lengths, speakers = arrays["x"], arrays["n"].astype("int32"), arrays["y"].astype("int32")
        num_train = int(arrays["n_train"])
    is_real = np.arange(lengths.max()) < lengths[:, None]  # (U, T)
    frames = np.zeros((*is_real.shape, all_frames.shape[1]), "float32")
    frames[is_real] = all_frames
    train, test = slice(num_train), slice(num_train, None)
    x_train, x_test = ({"frames": frames[part], "num_frames": lengths[part]} for part in (train, test))
    return (x_train, speakers[train]), (x_test, speakers[test])
