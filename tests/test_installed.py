"""The package where it is imported from: this checkout, or a wheel next to an unpacked source distribution."""

from pathlib import Path

from paths import ROOT

import keras_netvlad
from keras_netvlad.data import load_japanese_vowels


def test_the_code_is_that_of_the_checkout_or_of_the_wheel():
    home = Path(keras_netvlad.__file__).parent
    if (ROOT / "keras_netvlad").is_dir():
        assert home == ROOT / "keras_netvlad"
    else:
        assert home == ROOT.parent / "installed" / "keras_netvlad"


def test_the_packaged_data_load():
    (inputs, labels), _ = load_japanese_vowels()
    assert len(inputs["frames"]) == len(labels) == 270
