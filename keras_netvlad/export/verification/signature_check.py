"""`check_signatures`: checks that an artifact offers the signatures of its model."""

from collections.abc import Collection, Mapping

from keras_netvlad.export.port import Port
from keras_netvlad.export.signature import Signature
from keras_netvlad.export.verification.artefact import Ports


def check_signatures(expected: Mapping[str, Signature], received: Mapping[str, tuple[Ports, Ports]]) -> None:
    """Raises if an artifact differs from its model in a signature, input, output, dtype or axis.

    Args:
        expected: The model's signatures by name.
        received: The artifact's signatures, as `Artefact.signatures` has them.

    Raises:
        ValueError: If they differ.
    """
    _check_names("signatures", expected, received)
    for name, signature in expected.items():
        inputs, outputs = received[name]
        for kind, ports, found in (("input", signature.inputs, inputs), ("output", signature.outputs, outputs)):
            _check_names(f"{kind}s of `{name}`", [port.name for port in ports], found)
            for port in ports:
                _check_port(kind, port, *found[port.name])


def _check_names(kind: str, expected: Collection[str], received: Collection[str]) -> None:
    if set(expected) != set(received):
        raise ValueError(
            f"The artifact's {kind} must be the model's, {sorted(expected)}; does it belong to another model, or to an "
            f"older export? Received: {sorted(received)}"
        )


def _check_port(kind: str, port: Port, shape: tuple[int | str | None, ...], dtype: str) -> None:
    """Raises if dtype or axes of an artifact's port differ. An ONNX file names the unknown axes."""
    names = tuple(name or size for name, size in zip(port.axis_names, port.shape, strict=True))
    if dtype != port.dtype or shape not in (port.shape, names):
        raise ValueError(
            f"The artifact's {kind} `{port.name}` must be the model's, {port.dtype} {names}; export it again. "
            f"Received: {dtype} {shape}"
        )
