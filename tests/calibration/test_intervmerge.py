from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

import saft
from saft import config, interventions
from saft.calibration import intervmerge
from saft.calibration.data import load_calibration_data
from saft.errors import UserError
from saft.evaluate import EvaluateConfig, evaluate
from saft.files.checkpoint import read_manifest, write_manifest
from saft.interventions import Intervention
from saft.merge import MergeConfig, merge
from saft.merging.merge_check import check
from saft.merging.merge_config import DataConfig, InterventionConfig
from saft.model_config import ModelConfig
from saft.models import load_trunk
from saft.tasks.pooling import TextClassifier

pytestmark = pytest.mark.slow  # searches


def settings(tiny_model, experts, method="task_arithmetic", examples=8, **options):
    chosen = InterventionConfig(**({"iterations": 3, "learning_rate": 0.01} | options))
    data = DataConfig(examples=examples, batch_size=4)
    parameters = {"iterations": 2} if method == "adamerging" else {}
    return MergeConfig(method, str(tiny_model), experts, parameters, data=data, interventions=chosen)


def distance(trunk, expert, batch):
    with torch.no_grad():
        mine, theirs = (
            TextClassifier(model, nn.Identity()).features(batch.inputs) for model in (trunk, expert)
        )
    return float((mine - theirs).abs().mean())


@pytest.mark.parametrize("method", ["task_arithmetic", "adamerging"])
def test_the_folder_holds_the_merged_model_and_a_part_of_each_task(tiny_model, experts, tmp_path, method):
    chosen = settings(tiny_model, experts, method)
    result = merge(chosen, tmp_path / "out")
    assert result.folder == tmp_path / "out"
    assert not (tmp_path / "out/merged").exists()
    found = {file.name for file in (tmp_path / "out/parts").iterdir()}
    assert found == {"colour.safetensors", "size.safetensors"}
    manifest = read_manifest(tmp_path / "out")
    assert manifest["kind"] == "merge"
    assert manifest["interventions"] == {
        "rank": 1, "positions": "all", "learning_rate": 0.01, "iterations": 3
    }  # fmt: skip
    assert manifest["data"]["examples"] == {"colour": 8, "size": 8}
    assert "Interventions" in (tmp_path / "out/README.md").read_text()
    # The model itself is that of the merge without interventions.
    plain = MergeConfig(
        method, str(tiny_model), experts, chosen.parameters,
        data=chosen.data if method == "adamerging" else DataConfig(),
    )  # fmt: skip
    merge(plain, tmp_path / "plain")
    files = [tmp_path / name / "model.safetensors" for name in ("out", "plain")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_training_brings_the_features_near_those_of_the_expert(tiny_model, experts, tmp_path):
    merge(settings(tiny_model, experts, iterations=60, rank=2, examples=12), tmp_path / "out")
    material = load_calibration_data(check(settings(tiny_model, experts, examples=12)))
    plain = load_trunk(ModelConfig(str(tmp_path / "out")))
    for task, examples in material.examples.items():
        batch = examples.collate(list(range(len(examples))))
        expert = load_trunk(ModelConfig(experts[task]))
        own = load_trunk(ModelConfig(str(tmp_path / "out")), task)
        assert distance(own, expert, batch) < 0.9 * distance(plain, expert, batch)


def test_a_task_is_loaded_and_evaluated_with_its_interventions(tiny_model, experts, tmp_path):
    merge(settings(tiny_model, experts, iterations=20, learning_rate=0.05), tmp_path / "out")
    model = saft.load_task(tmp_path / "out", "size")
    assert isinstance(model, transformers.BertModel)
    assert not model.training
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("red whale", return_tensors="pt")
    with torch.no_grad():
        own = model(**tokens).last_hidden_state
        plain = transformers.AutoModel.from_pretrained(tmp_path / "out")(**tokens).last_hidden_state
        trunk = load_trunk(ModelConfig(str(tmp_path / "out")), "size")(**tokens).last_hidden_state
    assert not torch.allclose(own, plain, atol=1e-4)
    torch.testing.assert_close(own, trunk)
    with pytest.raises(UserError, match="save_pretrained would leave out the interventions"):
        model.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="has no interventions for 'sice'; did you mean 'size'"):
        saft.load_task(tmp_path / "out", "sice")
    out = str(tmp_path / "out")
    assert set(evaluate(EvaluateConfig([out], examples=8)).figures[out]) == {"colour", "size"}
    (tmp_path / "out/parts/size.safetensors").unlink()
    with pytest.raises(UserError, match=r"size.safetensors: is missing"):
        saft.load_task(tmp_path / "out", "size")


def test_every_block_is_changed_whatever_the_depth():
    for depth in (1, 5):
        options = transformers.BertConfig(
            vocab_size=9, hidden_size=8, num_hidden_layers=depth, num_attention_heads=2, intermediate_size=8
        )
        names = interventions.attention(transformers.BertModel(options))
        assert list(names) == [f"encoder.layer.{at}.attention" for at in range(depth)]
    gpt2 = transformers.GPT2Model(transformers.GPT2Config(vocab_size=9, n_embd=8, n_layer=3, n_head=2))
    assert list(interventions.attention(gpt2)) == ["h.0.attn", "h.1.attn", "h.2.attn"]
    options = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=14, num_attention_heads=2, intermediate_size=8, image_size=32
    )
    assert len(interventions.attention(transformers.ViTModel(options))) == 14
    with pytest.raises(UserError, match=r"Linear has no block whose attention is called"):
        interventions.attention(nn.Linear(2, 2))


def test_the_intervention_follows_the_equation():
    torch.manual_seed(0)
    found = Intervention(width=6, rank=2)
    h = torch.randn(3, 4, 6)
    torch.testing.assert_close(found(h), h)
    with torch.no_grad():
        for weight in found.parameters():
            weight.normal_()
    expected = torch.stack(
        [x + found.W2.T @ ((found.W1 @ x + found.b1) - (found.W2 @ x + found.b2)) for x in h.flatten(0, 1)]
    )
    torch.testing.assert_close(found(h), expected.view(3, 4, 6))
    found.positions = "first"
    torch.testing.assert_close(found(h)[:, 0], expected.view(3, 4, 6)[:, 0])
    assert found(h)[:, 1:].equal(h[:, 1:])
    with pytest.raises(UserError, match="use positions: all"):
        found(h.flatten(0, 1))


def test_what_is_attached_can_be_taken_off():
    layer = nn.Sequential(nn.Linear(4, 4))
    x = torch.randn(2, 3, 4)
    before = layer(x)
    found = Intervention(4, 1)
    found.b1.data += 1
    end = interventions.attach(layer, {"0": found})
    assert not torch.allclose(layer(x), before)
    end()
    assert layer(x).equal(before)
    assert set(layer.state_dict()) == {"0.weight", "0.bias"}


def test_the_first_token_is_changed_where_it_is_the_text(planned, tiny_model, experts, tmp_path):
    def positions(*poolings):
        for (name, folder), pooling in zip(experts.items(), poolings, strict=True):
            mapping = read_manifest(Path(folder))["tasks"][name] | {"pooling": pooling}
            write_manifest(Path(folder), {"tasks": {name: mapping}})
        out = tmp_path / "-".join(poolings)
        merge(settings(tiny_model, experts), out)
        return read_manifest(out)["interventions"]["positions"]

    assert positions("cls", "cls") == "first"
    assert positions("cls", "mean") == "all"


def test_the_same_merge_writes_the_same_interventions(tiny_model, experts, tmp_path):
    for name in ("one", "other"):
        merge(settings(tiny_model, experts), tmp_path / name)
    for task in experts:
        one, other = (tmp_path / name / f"parts/{task}.safetensors" for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def test_wrong_settings_are_told(tiny_model, experts, tmp_path):
    mapping = {"method": "ties", "base": str(tiny_model), "models": experts}

    def told(**changes):
        with pytest.raises(UserError) as caught:
            merge(config.parse(MergeConfig, mapping | changes, "merge.yaml"), None, check_only=True)
        return str(caught.value)

    assert "rank: must be at least 1, but is 0" in told(interventions={"rank": 0})
    assert "unknown key; did you mean 'rank'" in told(interventions={"rnak": 1})
    assert "emr gives each task its own model already; leave them out" in told(method="emr", interventions={})
    strange = {"a b": experts["size"]}
    assert "models: 'a b' cannot be a name" in told(models=strange, interventions={})
    (Path(experts["size"]) / "saft.json").unlink()
    assert "saft.json says no task" in told(interventions={})
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_an_interrupt_while_training_leaves_nothing(tiny_model, experts, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(intervmerge, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        merge(settings(tiny_model, experts), tmp_path / "new/out")
    assert not list((tmp_path / "new").iterdir())
