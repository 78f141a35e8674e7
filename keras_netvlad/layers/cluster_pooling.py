"""`ClusterPooling`: poolings that assign each descriptor to clusters."""

from keras import ops

from keras_netvlad.layers.frame_pooling import FramePooling
from keras_netvlad.layers.validation import check_integer


class ClusterPooling(FramePooling):
    """Pools descriptors by the clusters that they belong to.

    Subclasses say which descriptor belongs to which of the `K` clusters, in `_assign`.
    """

    def __init__(self, num_clusters, **kwargs):
        super().__init__(**kwargs)
        self.num_clusters = check_integer("num_clusters", num_clusters, 1)

    def build(self, input_shape):
        super().build(input_shape)
        self._build_assignment()

    def get_config(self):
        return {**super().get_config(), "num_clusters": self.num_clusters}

    def assign(self, inputs, mask=None):
        """Returns which cluster each descriptor goes to, to look at.

        Args:
            inputs: As the layer's.
            mask: As the layer's.

        Returns:
            Assignments `(B, N, K)`. Rows sum to 1, or to less where ghost clusters take a share; rows that `mask`
            leaves out are 0, weighted rows are multiplied by their weight. `N` runs frame by frame, row by row.

        Raises:
            ValueError: As the layer's.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad import NetVLAD
        >>> frames = np.random.default_rng(0).normal(size=(1, 100, 16)).astype("float32")
        >>> assignments = NetVLAD(num_clusters=4).assign(frames)
        >>> tuple(assignments.shape), bool(np.allclose(np.sum(assignments, axis=2), 1))
        ((1, 100, 4), True)
        """
        return self._assigned(inputs, mask, training=False)[1]

    def _build_assignment(self):
        """Creates the weights of the assignment, where there are any beside the centroids."""

    def _assign(self, descriptors, present, training):
        """Assignments `(B, N, K)` of descriptors `(B, N, D)`; `present` `(B, N)` is boolean or `None`."""
        raise NotImplementedError

    def _assigned(self, inputs, mask, training):
        """Descriptors `(B, N, D)` with zeros for padding, and their masked or weighted assignments `(B, N, K)`."""
        descriptors, weights, present = self._picked(inputs, mask)
        assignments = self._assign(descriptors, present, training)
        return descriptors, assignments if weights is None else assignments * weights

    def _product(self, product, *factors):
        """A matrix product whose factors, and with them its result, are rounded to `product_dtype` if there is one."""
        if self.product_dtype is None:
            return product(*factors)
        return ops.cast(product(*(ops.cast(factor, self.product_dtype) for factor in factors)), self._sum_dtype)

    @property
    def _num_assigned(self):
        """Clusters that take part in the assignment."""
        return self.num_clusters
