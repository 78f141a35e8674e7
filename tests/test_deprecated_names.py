"""Modules that moved: their old names import with a warning that names the new place."""

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("extraction", "videos", ["Extracted", "extract_features"]),
        ("indexing", "retrieval", ["index_records"]),
        ("usage", "cluster_statistics", ["cluster_shares", "dead_clusters", "dominant_clusters", "usage_entropy"]),
    ],
)
def test_an_old_name_warns_and_gives_the_same_functions(monkeypatch, old, new, names):
    monkeypatch.delitem(sys.modules, f"keras_netvlad.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=rf"`keras_netvlad\.{old}` is deprecated; .*`keras_netvlad\.{new}`"):
        module = importlib.import_module(f"keras_netvlad.{old}")
    current = importlib.import_module(f"keras_netvlad.{new}")
    assert set(names) <= set(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is getattr(current, name)
