from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from scipy.stats import pearsonr, spearmanr

import saft
from saft import config, tasks
from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.tasks import BoundTask, Limits
from saft.tasks.tokenizer import load_tokenizer
from saft.train import TrainConfig, train

PAIRS = [
    ("rose", "blood", "5.0"),
    ("rose", "brick", "4"),
    ("sky", "sea", "4.5"),
    ("ant", "sky", "1.5"),
    ("hill", "ink", "0"),
]


@pytest.fixture
def mapping(tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "pairs.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["one", "two", "score"])
        writer.writerows(PAIRS * 8)
    data = {"path": "csv", "files": {"train": str(file)}, "test": None}
    return {
        "kind": "text_regression",
        "data": data | {"text": "one", "pair": "two", "label": "score"},
        "center": 2.5,
        "spread": 2.5,
        "max_length": 16,
    }


def bound(mapping: dict[str, Any], model: Path, **changes: Any) -> BoundTask:
    return tasks.build("sts", mapping | changes, "tasks").bind("sts", ModelConfig(str(model)), "t")


def test_a_pair_is_written_as_the_tokenizer_writes_pairs(mapping: dict[str, Any], tiny_model: Path) -> None:
    examples, tokenizer = bound(mapping, tiny_model).examples(Limits()).train, load_tokenizer(str(tiny_model))
    batch = examples.collate(list(range(len(examples))))
    seen = {tokenizer.decode(ids) for ids in batch.inputs["input_ids"]}
    assert "[CLS] rose [SEP] blood [SEP]" in seen
    assert batch.inputs["token_type_ids"].max() == 1
    assert batch.labels.dtype == torch.float32


@pytest.mark.slow
def test_it_is_learned_saved_and_measured(mapping: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    options = {
        "model": {"path": str(tiny_model)},
        "task": mapping,
        "name": "sts",
        "out": str(tmp_path / "out"),
        "training": {"steps": 40, "learning_rate": 1e-2},
        "trainer": {"accelerator": "cpu"},
    }
    result = train(config.parse(TrainConfig, options, "t"))
    assert result.validation.value > 0.9
    task = bound(mapping, result.folder)
    model, examples = task.model(task.load_trunk(), result.folder), task.examples(Limits()).validation
    told, right = [], []
    with torch.no_grad():
        for index in range(len(examples)):
            batch = examples.collate([index])
            told.append(float(model(batch.inputs)))
            right.append(float(batch.labels))
    by_rank = bound(mapping, result.folder, metric_name="spearman")
    for batch_size in (1, 3):
        score = task.score(model, examples, batch_size)
        assert score.value == pytest.approx(pearsonr(told, right).statistic, abs=1e-4)
        ranks = by_rank.score(model, examples, batch_size).value
        assert ranks == pytest.approx(spearmanr(told, right).statistic, abs=1e-4)
    figures = saft.evaluate(saft.EvaluateConfig(checkpoints=[str(result.folder)], split="validation")).figures
    assert figures[str(result.folder)]["sts"] == pytest.approx(result.validation.value, abs=1e-6)


def test_the_loss_is_the_squared_error_in_units_of_the_spread(
    mapping: dict[str, Any], tiny_model: Path
) -> None:
    task = bound(mapping, tiny_model)
    examples, model = task.examples(Limits()).train, task.model(task.load_trunk())
    batch = examples.collate(list(range(len(examples))))  # the head's output is 0, which stands for 2.5
    expected = ((batch.labels - 2.5) / 2.5).square().mean()
    torch.testing.assert_close(task.loss(model, batch).detach(), expected)


def test_what_does_not_vary_has_no_correlation(mapping: dict[str, Any], tiny_model: Path) -> None:
    task = bound(mapping, tiny_model)
    assert task.score(task.model(task.load_trunk()), task.examples(Limits()).train).value == 0.0


def test_a_head_is_as_wide_as_what_the_model_gives(
    mapping: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    """OPT-350m gives less than its hidden size, and the config of Gemma 3 has none: both ended in tracebacks."""
    folder = tmp_path / "opt"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    heads = {"num_attention_heads": 2, "ffn_dim": 8, "num_hidden_layers": 1, "do_layer_norm_before": False}
    sizes = {"vocab_size": 64, "hidden_size": 8, "word_embed_proj_dim": 4, "max_position_embeddings": 32}
    transformers.OPTModel(transformers.OPTConfig(**sizes, **heads)).save_pretrained(folder)
    task = bound(mapping, folder)
    model, batch = task.model(task.load_trunk()), task.examples(Limits()).train.collate([0, 1])
    assert model.head.weight.shape == (1, 4)
    assert task.loss(model, batch).isfinite()


def test_mistakes_are_named(mapping: dict[str, Any], tiny_model: Path) -> None:
    data = mapping["data"]
    for changes, message in (
        (
            {"label": "one"},
            r"t.data.label: row 1 of the train split of .* holds '\w+' in column 'one', which is no number;",
        ),
        ({"pair": "tow"}, r"t.data.pair: there is no column 'tow' in the train split; did you mean 'two'"),
    ):
        with pytest.raises(UserError, match=message):
            bound(mapping, tiny_model, data=data | changes).examples(Limits())
    task = bound(mapping, tiny_model)
    trunk = task.load_trunk()
    with pytest.raises(
        UserError, match=r"there is no .*sts.safetensors, and the head of this task is a train"
    ):
        task.model(trunk, tiny_model)


def test_a_number_beyond_32_bits_is_told(mapping: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "large.csv"
    file.write_text("one,two,score\n" + "rose,blood,1\n" * 6 + "sky,sea,1e300\n")
    data = mapping["data"] | {"files": {"train": str(file)}}
    with pytest.raises(
        UserError, match=r"row 7 of the .* holds '1e300' .*, which is no number up to 3.4e\+38;"
    ):
        tasks.build("sts", mapping | {"data": data}, "t").rows("t")  # type: ignore[attr-defined]
