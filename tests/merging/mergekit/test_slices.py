"""mergekit's files of one slice of whole models."""

from __future__ import annotations

import pytest

from saft.errors import UserError
from saft.merging.mergekit import file as mergekit
from tests.merging.mergekit.test_file import GOLDEN, TIES, mapping


@pytest.fixture(autouse=True)
def beside_the_models(monkeypatch):
    monkeypatch.chdir(GOLDEN)


def sliced(case, layers=(0, 3)):
    sources = [model | {"layer_range": list(layers)} for model in case["models"]]
    return {key: value for key, value in case.items() if key != "models"} | {"slices": [{"sources": sources}]}


@pytest.mark.parametrize("name", ["slerp_gradient", "ties_filters"])
def test_one_slice_of_whole_models_is_a_merge_of_them(name):
    settings, _ = mergekit.read(sliced(mapping(name)), "slices.yaml")
    assert settings == mergekit.read(mapping(name), "models.yaml")[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            sliced(TIES, (0, 1)),
            r"slices: layer_range: \[0, 1\], but 'base' has 3 layers: mergekit can do this",
        ),
        (
            sliced(TIES, (1, 2)),
            r"slices: layer_range: \[1, 2\], \[1, 2\]: mergekit can do this; saft does not",
        ),
        (
            {"slices": sliced(TIES)["slices"] * 2},
            "slices: mergekit can do this; saft does not; it merges whole",
        ),
        (
            sliced(TIES | {"models": [{"model": "none"}], "base_model": "none"}),
            "no config.json of its models",
        ),
    ],
)
def test_slices_of_less_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        mergekit.read({key: x for key, x in TIES.items() if key != "models"} | change, "slices.yaml")
