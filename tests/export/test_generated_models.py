"""Generated models: every artifact equals its model in every signature, or the export is refused for a true reason."""

import collections
import os

import pytest
from generated_artifacts import check
from generated_models import descriptions
from hypothesis import HealthCheck, Phase, assume, given, seed, settings, strategies

FORMATS = ("saved_model", "onnx")


def compare(number, first_seed, formats, tmp_path, record_property):
    """Checks `number` models, all of them, and fails with a list of those that are wrong."""
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
    @given(descriptions(), formats)
    def compare_one(description, chosen):
        # Hypothesis repeats parts of earlier models. A second export of nearly the same model would show little.
        layers = tuple((stream.kind, stream.before, stream.mask) for stream in description.streams)
        assume((layers, description.policy, description.head) not in seen)
        seen.add((layers, description.policy, description.head))
        for file_format in chosen:
            directory = tmp_path / str(tally.total())
            directory.mkdir()
            outcome = check(description, file_format, directory)
            tally[outcome.kind] += 1
            if outcome.kind == "wrong":
                wrong.append("\n    ".join([f"{file_format} {description}", *outcome.details]))

    compare_one()
    counts = ", ".join(f"{tally[kind]} {kind}" for kind in ("exported", "refused", "wrong"))
    record_property("summary", f"{number} generated models, seed {first_seed}, {tally.total()} artifacts: {counts}")
    assert not wrong, f"seed {first_seed}: {counts}\n" + "\n".join(wrong)
    assert tally["exported"] > tally["refused"] > 0


def test_generated_models(tmp_path, record_property):
    compare(40, 1, strategies.sampled_from(FORMATS).map(lambda name: (name,)), tmp_path, record_property)


@pytest.mark.slow
def test_many_generated_models(tmp_path, record_property):
    """`GENERATED_MODELS_SEED` chooses other models."""
    first_seed = int(os.environ.get("GENERATED_MODELS_SEED", "2"))
    compare(400, first_seed, strategies.just(FORMATS), tmp_path, record_property)
