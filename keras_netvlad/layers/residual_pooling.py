"""`ResidualPooling`: additive poolings of what is left of each descriptor beside its cluster's centroid."""

import keras

from keras_netvlad.layers.additive_pooling import AdditivePooling


class ResidualPooling(AdditivePooling):
    """Pools descriptors into normalized sums of their residuals to `K` learnable centroids."""

    def __init__(self, centroids_initializer, centroids_regularizer, centroids_constraint, **kwargs):
        super().__init__(**kwargs)
        self.centroids_initializer = keras.initializers.get(
            centroids_initializer
            or keras.initializers.VarianceScaling(1.0, mode="fan_out", distribution="truncated_normal")
        )
        self.centroids_regularizer = keras.regularizers.get(centroids_regularizer)
        self.centroids_constraint = keras.constraints.get(centroids_constraint)

    def build(self, input_shape):
        super().build(input_shape)
        self.centroids = self.add_weight(
            name="centroids",
            autocast=False,
            shape=(self.num_clusters, self._shape_of_sums(self.feature_size)[1]),
            initializer=self.centroids_initializer,
            regularizer=self.centroids_regularizer,
            constraint=self.centroids_constraint,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "centroids_initializer": keras.initializers.serialize(self.centroids_initializer),
            "centroids_regularizer": keras.regularizers.serialize(self.centroids_regularizer),
            "centroids_constraint": keras.constraints.serialize(self.centroids_constraint),
        }

    def _residuals(self, means, value):
        return means - value(self.centroids)
