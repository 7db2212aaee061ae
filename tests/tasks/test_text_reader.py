"""How texts are read: what the model decides, and a head that a folder holds with its pooling."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.models import load_trunk
from saft.tasks import heads
from saft.tasks.heads import LinearHead
from saft.tasks.language_task import language_folder
from saft.tasks.text_reader import TextReader
from tests.tasks import tiny_vision


def test_the_model_decides_the_length_and_the_pooling_where_the_task_leaves_them_open(
    tiny_model: Path,
) -> None:
    model = ModelConfig(str(tiny_model), "last")
    assert TextReader.of(model, 1000, None, "reader").resolved == {"pooling": "last", "max_length": 32}
    assert TextReader.of(model, 8, "cls", "t").resolved == {"pooling": "cls", "max_length": 8}
    nobody = TextReader.of(ModelConfig(str(tiny_model)), 8, None, "t")
    assert nobody.pooling is None
    assert nobody.resolved["pooling"] == "mean"


def test_a_stored_head_brings_its_pooling_and_another_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = ModelConfig(str(tiny_model))
    trunk, reader = load_trunk(model), TextReader.of(model, 8, None, "t")
    assert reader.headless(trunk, None, "t").pooling == "mean"
    heads.save(LinearHead(32, 2), tmp_path, "a", ["x", "y"], "cls")
    stored = heads.load(tmp_path, "a", ["x", "y"])
    classifier = reader.headless(trunk, stored, "t")
    assert classifier.pooling == "cls"
    batch = reader.examples(["red", "blue sky"], torch.tensor([0, 1])).collate([0, 1])
    assert classifier(batch.inputs).shape == (2, 32)
    mean = TextReader.of(model, 8, "mean", "t")
    with pytest.raises(UserError, match=r"^t\.pooling: is mean, but the head in .* was made for cls$"):
        mean.headless(trunk, stored, "t")


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_a_model_of_images_is_refused_with_the_kind_that_takes_it(kind: str, tmp_path: Path) -> None:
    model = ModelConfig(str(tiny_vision.model(kind, tmp_path / kind)))
    message = "needs a model of texts, which .* is not; kind: image_classification takes it"
    with pytest.raises(UserError, match=rf"^t\.kind: {message}"):
        TextReader.of(model, 8, None, "t")
    with pytest.raises(UserError, match="kind: image_classification takes it"):
        language_folder(model, "causal", "t")
