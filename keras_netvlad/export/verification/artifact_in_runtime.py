"""`ArtifactInRuntime`: an artifact that runs in a runtime of the user's choice."""

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_netvlad.export.reason import reason_of
from keras_netvlad.export.signature import SERVING_DEFAULT
from keras_netvlad.export.verification.artefact import PAST, Artefact
from keras_netvlad.export.verification.runtimes import Runtime, name_of, open_runtime


class ArtifactInRuntime(Artefact):
    """An artifact that runs in a runtime of the user's choice, and not in that of `Artefact`.

    Names, shapes and precision are those that `Artefact` reads from the files. Of a SavedModel or a LiteRT file, other
    runtimes run the signature `serving_default` only.

    Args:
        path: Path of the artifact.
        runtime: Key of `runtimes.OPENERS`, or a function that takes the path and returns a function from inputs to
            outputs, dicts of arrays by the names in the file.

    Attributes:
        runtime: Name of the runtime.

    Raises:
        FileNotFoundError: If there is no artifact at `path`.
        ImportError: If the runtime is not installed.
        ValueError: If the artifact cannot be loaded.
    """

    def __init__(self, path: str | os.PathLike[str], runtime: Runtime) -> None:
        super().__init__(path)
        self.runtime = name_of(runtime)
        if self.kind != "onnx":
            self.signatures = {SERVING_DEFAULT: self.signatures[SERVING_DEFAULT]}
        start = time.perf_counter()
        self._runner = open_runtime(runtime, path)
        self.load_seconds = time.perf_counter() - start

    def run(self, inputs: Mapping[str, ArrayLike], signature: str | None = None) -> dict[str, np.ndarray]:
        """Runs one signature; see `Artefact.run`.

        Raises:
            ValueError: If the runtime fails, or does not return a dict with every output.
        """
        names, output_names = self.signatures[signature or next(iter(self.signatures))]
        in_file = {name: f"{PAST}{name}" if name in output_names and self.kind == "onnx" else name for name in names}
        sizes = {name: np.shape(inputs[name]) for name in names}
        try:
            outputs: Any = self._runner({in_file[name]: np.asarray(inputs[name]) for name in names})
        except Exception as error:
            # Runtimes raise exceptions of many classes.
            raise ValueError(
                f"The runtime must run the artifact on all inputs that the model accepts. Received: {self.runtime} "
                f"fails for inputs of the shapes {sizes} ({reason_of(error)})"
            ) from error
        if not isinstance(outputs, Mapping) or not set(output_names) <= set(outputs):
            received = sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise ValueError(
                f"The runtime must return a dict with an array for each output, {sorted(output_names)}. Received from "
                f"{self.runtime}: {received}"
            )
        return {name: np.asarray(outputs[name]) for name in output_names}
