"""How texts are read: what the model decides, and a head that a folder holds with its pooling."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from saft import tasks
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


def test_a_second_text_that_the_model_has_no_token_type_for_is_refused(
    tiny_model: Path, tmp_path: Path
) -> None:
    """A tokenizer of BERT's beside a model of one token type ended in torch's "index out of range"."""
    folder = tmp_path / "one"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"type_vocab_size": 1}))
    reader, labels = TextReader.of(ModelConfig(str(folder)), 8, None, "t"), torch.tensor([0])
    reader.examples(["red"], labels)
    message = r"^t\.data\.pair: .* token type 1, but the model has weights for 1 only \(type_vocab_size"
    with pytest.raises(UserError, match=message):
        reader.examples([("red", "blue")], labels)
    TextReader.of(ModelConfig(str(tiny_model)), 8, None, "t").examples([("red", "blue")], labels)


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_a_model_of_images_is_refused_with_the_kind_that_takes_it(kind: str, tmp_path: Path) -> None:
    model = ModelConfig(str(tiny_vision.model(kind, tmp_path / kind)))
    message = "needs a model of texts, which .* is not; kind: image_classification takes it"
    with pytest.raises(UserError, match=rf"^t\.kind: {message}"):
        TextReader.of(model, 8, None, "t")
    with pytest.raises(UserError, match="kind: image_classification takes it"):
        language_folder(model, "causal", "t")


def test_a_decoder_is_read_by_its_last_token_unless_something_else_is_said(
    tiny_gpt2: Path, tiny_t5: Path, tiny_model: Path, tmp_path: Path
) -> None:
    usual = {
        folder: TextReader.of(ModelConfig(str(folder)), 8, None, "t").resolved["pooling"]
        for folder in (tiny_gpt2, tiny_t5, tiny_model)
    }
    assert usual == {tiny_gpt2: "last", tiny_t5: "mean", tiny_model: "mean"}
    decoder = ModelConfig(str(tiny_gpt2))
    assert TextReader.of(decoder, 8, "mean", "t").resolved["pooling"] == "mean"
    trunk, reader = load_trunk(decoder), TextReader.of(decoder, 8, None, "t")
    assert reader.headless(trunk, None, "t").pooling == "last"
    heads.save(LinearHead(32, 2), tmp_path, "a", ["x", "y"], "mean")  # as heads were that are there already
    assert reader.headless(trunk, heads.load(tmp_path, "a", ["x", "y"]), "t").pooling == "mean"


def test_the_first_token_is_not_pooled_where_it_sees_no_other(
    tiny_gpt2: Path, tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]]
) -> None:
    """Of a decoder it was the same for all texts that begin alike, and nothing but the first word was learned."""
    declared = tasks.build("a", tiny_tasks["colour"] | {"pooling": "cls", "head": "linear"}, "tasks")
    for folder in (tiny_model, tiny_gpt2):
        bound = declared.bind("a", ModelConfig(str(folder)), "t")
        trunk = bound.load_trunk()
        if folder == tiny_model:
            assert bound.model(trunk).reads_first_token
            continue
        with pytest.raises(UserError, match=r"^t\.pooling: in GPT2Model the first token sees none of those"):
            bound.model(trunk)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("pairs", [False, True])
def test_texts_that_are_cut_are_told_once_a_split(
    tiny_model: Path,
    fast: bool,
    pairs: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("saft.progress._noted", set())
    reader = TextReader.of(ModelConfig(str(tiny_model)), 6, None, "tasks.a")
    assert not reader.is_told  # 6 is what was asked for
    assert TextReader.of(ModelConfig(str(tiny_model)), 128, None, "tasks.a").is_told
    capsys.readouterr()
    reader = dataclasses.replace(reader, is_told=True)
    if not fast:
        reader = dataclasses.replace(reader, tokenizer=Slow(reader.tokenizer))
    singles = ["red", "red red red red", "red red red red red", "blue " * 9]
    texts = [("sky", text[4:]) for text in singles] if pairs else singles
    several = torch.zeros(4)
    for split in ("train", "train", "test"):
        places = [f"row {row + 1} of the {split} split of a.csv" for row in range(4)]
        assert reader.examples(texts, several, places).lengths[1:] == [6, 6, 6]
    cut = 3 if pairs else 2
    first = 2 if pairs else 3
    assert capsys.readouterr().err == "".join(
        f"saft: note: tasks.a.max_length: {cut} of 4 rows have more than 6 tokens and are cut, such as row "
        f"{first} of the {split} split of a.csv\n"
        for split in ("train", "test")
    )


class Slow:
    """A tokenizer that does not keep what it cuts off."""

    def __init__(self, fast: Any) -> None:
        self.fast = fast

    def __call__(self, *texts: Any, **options: Any) -> transformers.BatchEncoding:
        return transformers.BatchEncoding(dict(self.fast(*texts, **options)))

    def num_special_tokens_to_add(self, pair: bool) -> int:
        return int(self.fast.num_special_tokens_to_add(pair=pair))


def test_a_text_without_tokens_is_refused_by_its_row(tiny_gpt2: Path) -> None:
    reader = TextReader.of(ModelConfig(str(tiny_gpt2)), 8, None, "t")
    with pytest.raises(UserError, match=r"^t\.data\.text: row 7 holds ' ', of which .* no token; leave it"):
        reader.examples(["red", " "], torch.tensor([0, 1]), ["row 2", "row 7"])


def test_a_length_that_leaves_nothing_of_a_pair_is_refused(tiny_model: Path) -> None:
    """Such a pair would not be cut at all."""
    reader = TextReader.of(ModelConfig(str(tiny_model)), 4, None, "t")
    with pytest.raises(
        UserError, match=r"^t.max_length: 4 token\(s\) hold no pair .*; raise it to 5 or more$"
    ):
        reader.examples([("red", "blue")], torch.zeros(1))
    assert reader.examples(["red rose blue"], torch.zeros(1)).lengths == [4]
    wider = TextReader.of(ModelConfig(str(tiny_model)), 5, None, "t")
    assert wider.examples([("red rose", "blue sky")], torch.zeros(1)).lengths == [5]
