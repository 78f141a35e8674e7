import numpy as np

from keras_netvlad.data import load_japanese_vowels


def test_japanese_vowels_are_the_official_split():
    (train, train_labels), (test, test_labels) = load_japanese_vowels()
    assert train["frames"].shape == (270, 29, 12)
    assert test["frames"].shape == (370, 29, 12)
    assert train["frames"].dtype == np.float32
    assert train["num_frames"].sum() + test["num_frames"].sum() == 9961
    assert (train["num_frames"].min(), test["num_frames"].max()) == (7, 29)
    # 30 training utterances of each speaker, as UCI describes.
    np.testing.assert_array_equal(np.bincount(train_labels), [30] * 9)
    np.testing.assert_array_equal(np.bincount(test_labels), [31, 35, 88, 44, 29, 24, 40, 50, 29])


def test_japanese_vowels_are_zero_beyond_each_end_and_real_before_it():
    (train, _), _ = load_japanese_vowels()
    is_real = np.arange(29) < train["num_frames"][:, None]
    assert not train["frames"][~is_real].any()
    assert train["frames"][is_real].any(axis=1).all()
