"""Generated models: every artifact equals its model in every signature, or the export is refused for a true reason."""

import collections
import os

import pytest
from generated_artifacts import check
from generated_models import descriptions
from hypothesis import HealthCheck, Phase, assume, given, seed, settings, strategies

FORMATS = ("saved_model", "onnx", "litert")


def compare(number, first_seed, tmp_path, record_property):
    """Checks `number` models, each in one of the formats, and fails with a list of those that are wrong."""
    tally, wrong, seen = collections.Counter(), [], set()

    # All models are compared, and none is shrunk: their descriptions are small, and each export takes seconds.
    @seed(first_seed)
    @settings(
        max_examples=number,
        derandomize=False,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(descriptions(), strategies.sampled_from(FORMATS))
    def compare_one(description, file_format):
        # Hypothesis repeats parts of earlier models. A second export of nearly the same model would show little.
        layers = tuple((stream.kind, stream.before, stream.mask) for stream in description.streams)
        assume((layers, description.policy, description.head) not in seen)
        seen.add((layers, description.policy, description.head))
        directory = tmp_path / str(tally.total())
        directory.mkdir()
        outcome = check(description, file_format, directory)
        tally[outcome.kind] += 1
        if outcome.kind == "wrong":
            wrong.append("\n    ".join([f"{file_format} {description}", *outcome.details]))

    compare_one()
    counts = ", ".join(f"{tally[kind]} {kind}" for kind in ("exported", "refused", "wrong"))
    record_property("summary", f"{tally.total()} generated models, seed {first_seed}: {counts}")
    assert not wrong, f"seed {first_seed}: {counts}\n" + "\n".join(wrong)
    assert tally["exported"] >= number / 3
    assert tally["refused"] > 0


def test_generated_models(tmp_path, record_property):
    compare(4, 4, tmp_path, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_many_generated_models(part, tmp_path, record_property):
    """`GENERATED_MODELS_SEED` chooses other models."""
    first_seed = int(os.environ.get("GENERATED_MODELS_SEED", "2"))
    compare(100, first_seed + part, tmp_path, record_property)
