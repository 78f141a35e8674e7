"""The report of a training run: one HTML file that needs no network. Importing this package loads NumPy only.

`run_files` reads the run. `page` assembles the sections, which are in `sections`. `charts`, `heatmap`, `thumbnails` and
`markup` draw. Every text of the run passes through `markup.element`, which escapes it.
"""

from keras_netvlad.videos.report.write import write_report

__all__ = ["write_report"]
