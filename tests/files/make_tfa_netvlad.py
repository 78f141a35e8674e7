"""Makes tfa_netvlad.npz: weights, inputs and scores of a model of TensorFlow Addons' NetVLAD, as that package computes.

Runs in an environment of its own, Python 3.11:

    pip install tensorflow-cpu==2.15.1 tensorflow-addons==0.23.0 'numpy<2'
    python make_tfa_netvlad.py
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_addons.layers.netvlad import NetVLAD

FEATURE_SIZE, NUM_CLUSTERS, NUM_CLASSES = 6, 4, 3

tf.keras.utils.set_random_seed(0)
frames = tf.keras.Input((None, FEATURE_SIZE))
descriptor = NetVLAD(NUM_CLUSTERS, name="net_vlad")(frames)
scores = tf.keras.layers.Dense(NUM_CLASSES, activation="softmax", name="scores")(descriptor)
model = tf.keras.Model(frames, [descriptor, scores])

generator = np.random.default_rng(0)
for weight in model.weights:
    weight.assign(generator.normal(size=weight.shape))
inputs = generator.normal(size=(3, 7, FEATURE_SIZE)).astype("float32")
descriptor, scores = model(inputs)

directory = Path(__file__).parent
model.save_weights(directory / "tfa_netvlad.h5")
np.savez(directory / "tfa_netvlad.npz", inputs=inputs, descriptor=descriptor, scores=scores)
