"""Live streams, cut into chunks, against the whole videos."""

import numpy as np
import pytest

from keras_netvlad.export import ParityError, export_saved_model, frame_by_frame
from keras_netvlad.export.serving_signatures import serving_signatures
from keras_netvlad.export.verification.chunked_videos import CUTS, compare_chunks, cut_video


def test_every_frame_of_a_video_is_in_one_chunk():
    frames = np.arange(22.0).reshape(2, 11, 1)
    for lengths in CUTS.values():
        chunks = list(cut_video({"frames": frames}, [11, 5], lengths))
        assert len(chunks) == len(lengths)
        assert all(chunk["frames"].shape[1] > 0 for chunk in chunks)  # servers take no empty tensors
        assert all(min(chunk["num_frames"]) >= 0 for chunk in chunks)
        for row, num_frames in enumerate([11, 5]):
            real = [chunk["frames"][row, : chunk["num_frames"][row]] for chunk in chunks]
            np.testing.assert_array_equal(np.concatenate(real), frames[row, :num_frames])
    assert [chunk["num_frames"].tolist() for chunk in cut_video({"frames": frames}, [11, 5], (0, 4, 0, 7))] == [
        [0, 0],
        [4, 4],
        [0, 0],
        [7, 1],
    ]


def test_the_report_lists_every_cut(artefacts):
    saved_model, _ = artefacts[1]
    cases = {comparison.case for comparison in saved_model.comparisons if comparison.signature == "describe"}
    assert {f"videos of [11, 5, 0] frames {cut}" for cut in CUTS} <= cases


@pytest.fixture
def unproved(monkeypatch):
    """Bypasses the proof from the graph, which does not offer wrong live streams."""

    def apply(node, known):
        return [frame_by_frame._Flow(frozenset(["frames"]), excludes_padding=True)] * len(node.output_tensors)

    monkeypatch.setattr(frame_by_frame, "_apply", apply)


def test_a_live_stream_that_is_wrong_in_chunks_differs(halves, unproved):
    signatures = serving_signatures(halves)
    comparisons = compare_chunks(lambda inputs, name: signatures[name].compute(inputs), signatures, None)
    is_right = {c.case.partition("frames ")[2]: c.is_within(1e-4) for c in comparisons}
    assert is_right == {
        "in one chunk": True,
        "frame by frame": False,
        "in uneven chunks": False,
        "with empty chunks": False,
    }


@pytest.mark.slow
def test_a_live_stream_that_is_wrong_in_chunks_fails_the_export(halves, unproved, tmp_path):
    with pytest.raises(ParityError, match=r"FAILED\n.*first at: videos of \[11, 5, 0\] frames frame by frame"):
        export_saved_model(halves, tmp_path / "1")
    assert not (tmp_path / "1").exists()
