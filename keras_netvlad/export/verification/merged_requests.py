"""`compare_merged`: compares the answers to merged requests with the answers to each request alone."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.export.signature import Signature
from keras_netvlad.export.verification.comparison import Comparison
from keras_netvlad.export.verification.model_outputs import on_real_frames
from keras_netvlad.export.verification.verification_inputs import Arrays

# Number of requests that are merged at once.
REQUESTS = 3


@dataclass(frozen=True)
class AnsweredRequest:
    """One request and the model's own answer to it.

    Attributes:
        inputs: Inputs of the artifact.
        expected: Outputs of the model.
        exact: Outputs of its float64 copy. Empty if there is no copy.
    """

    inputs: Arrays
    expected: Arrays
    exact: Arrays


def compare_merged(
    run: Callable[[Arrays, str], Arrays],
    signature: Signature,
    requests: Sequence[AnsweredRequest],
    pads: bool,
    frame_outputs: Collection[str] = (),
) -> Iterator[Comparison]:
    """Merges requests as TensorFlow Serving does, and compares each part of the answer with the model's answer.

    Args:
        run: Function that runs a signature of the artifact.
        signature: The signature. Nothing is merged unless all its inputs and outputs have a batch of any size.
        requests: Requests of different lengths, with the model's answers.
        pads: Whether the server pads requests. Otherwise, it merges only requests of equal shape.
        frame_outputs: Names of outputs that have a row for every frame.

    Yields:
        A `Comparison` for each request and output.
    """
    if any(not port.shape or port.shape[0] is not None for port in (*signature.inputs, *signature.outputs)):
        return
    groups: dict[tuple[tuple[int, ...], ...], list[AnsweredRequest]] = {}
    for request in [request for request in requests if _counts_own_frames(signature, request.inputs)][:REQUESTS]:
        shapes = tuple(request.inputs[port.name].shape[1:] for port in signature.inputs)
        groups.setdefault(() if pads else shapes, []).append(request)
    for group in groups.values():
        outputs = run(merge([request.inputs for request in group]), signature.name)
        start = 0
        for request in group:
            num_rows = len(next(iter(request.inputs.values())))
            sizes = ", ".join(f"{name} {values.shape}" for name, values in request.inputs.items())
            case = f"merged with {len(group) - 1} other requests and a repeated row: {sizes}"
            for name, expected in request.expected.items():
                received = outputs[name][start : start + num_rows]
                exact = request.exact.get(name)
                if name in frame_outputs:  # the answer has a row for every frame of the longest request
                    counts = {**request.expected, **request.inputs}  # records are answered with their `num_frames`
                    received = on_real_frames(received[:, : expected.shape[1]], counts)
                    expected = on_real_frames(expected, counts)
                    exact = None if exact is None else on_real_frames(exact, counts)
                yield Comparison.of(signature.name, name, case, expected, received, exact)
            start += num_rows


def check_model_of_merged(comparisons: Iterable[Comparison], tolerance: float) -> None:
    """Raises if the model's own answer to a request changes when other requests are merged with it.

    Args:
        comparisons: Comparisons by `compare_merged` that ran the model instead of an artifact.
        tolerance: Largest relative difference allowed.

    Raises:
        ValueError: If a comparison exceeds the tolerance.
    """
    differing = next((comparison for comparison in comparisons if not comparison.is_within(tolerance)), None)
    if differing is not None:
        raise ValueError(
            "The answer to a video must depend neither on the other videos of its batch nor on their length, because "
            "servers merge requests; do not combine rows, pass the mask of the frames on to every layer that combines "
            "frames, use `num_frames` in place of the length of an axis, or export without the check. Received: a "
            f"model whose output `{differing.output}` changes by {differing.absolute:.2g} if other requests are merged "
            "with it"
        )


def merge(requests: Sequence[Mapping[str, np.ndarray]], num_repeated: int = 1) -> Arrays:
    """Merges requests to one batch, as TensorFlow Serving's `batching_session.cc` does.

    Every axis except the batch is padded to the largest size of all requests with the first element of the request's
    own tensor. The first row of the last request is repeated to fill the batch.

    Args:
        requests: Dicts from input name to array with the batch first.
        num_repeated: Number of repeated rows.

    Returns:
        Dict from input name to array.
    """
    batch = {}
    for name in requests[0]:
        tensors = [request[name] for request in requests]
        shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
        padded = []
        for tensor in tensors:
            padded.append(np.full([len(tensor), *shape], tensor.flat[0], tensor.dtype))
            padded[-1][tuple(map(slice, tensor.shape))] = tensor
        batch[name] = np.concatenate([*padded, *[padded[-1][:1]] * num_repeated])
    return batch


def _counts_own_frames(signature: Signature, inputs: Arrays) -> bool:
    """Returns whether no `num_frames` is larger than the number of frames, as a server that pads requires."""
    streams = [port.name for port in signature.inputs if len(port.shape) >= 3 and port.shape[1] is None]
    if NUM_FRAMES not in inputs or not streams:
        return True
    return int(inputs[NUM_FRAMES].max()) <= min(inputs[name].shape[1] for name in streams)
