"""Pictures of learned clusters and descriptors. They need Matplotlib: `pip install 'keras_netvlad[plot]'`."""

from keras_netvlad.plot.assignment_maps import plot_assignment_maps
from keras_netvlad.plot.assignments import plot_assignments
from keras_netvlad.plot.cluster_usage import plot_cluster_usage
from keras_netvlad.plot.similarity import plot_similarity

__all__ = ["plot_assignment_maps", "plot_assignments", "plot_cluster_usage", "plot_similarity"]
