from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch

from saft.errors import UserError
from saft.files import checkpoint
from saft.files.tensorfile import view


def save_shards(folder):
    folder.mkdir()
    safetensors.torch.save_file({"b": torch.ones(2, 3)}, folder / "model-00001-of-00002.safetensors")
    safetensors.torch.save_file({"a": torch.zeros(4)}, folder / "model-00002-of-00002.safetensors")
    index = {"b": "model-00001-of-00002.safetensors", "a": "model-00002-of-00002.safetensors"}
    (folder / checkpoint.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


# Headers


def test_headers_of_a_single_file_name_dtype_shape_and_place(tmp_path):
    tensors = {"w": torch.randn(3, 4), "n": torch.tensor(7), "h": torch.randn(5).bfloat16()}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    headers = checkpoint.tensor_headers(tmp_path)
    assert list(headers) == sorted(tensors)
    for name, tensor in tensors.items():
        header = headers[name]
        assert (header.dtype, header.shape) == (tensor.dtype, tuple(tensor.shape))
        raw = (tmp_path / "model.safetensors").read_bytes()[slice(*header.offsets)]
        assert torch.frombuffer(bytearray(raw), dtype=tensor.dtype).equal(tensor.reshape(-1))


def test_headers_of_shards_point_at_their_shard(tmp_path):
    save_shards(tmp_path / "model")
    headers = checkpoint.tensor_headers(tmp_path / "model")
    assert {name: header.file.name for name, header in headers.items()} == {
        "a": "model-00002-of-00002.safetensors",
        "b": "model-00001-of-00002.safetensors",
    }


def test_a_missing_shard_is_named(tmp_path):
    save_shards(tmp_path / "model")
    (tmp_path / "model" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"shards that are not there: model-00002-of-00002"):
        checkpoint.tensor_headers(tmp_path / "model")


def test_a_tensor_that_the_index_promises_in_vain_is_named(tmp_path):
    save_shards(tmp_path / "model")
    safetensors.torch.save_file(
        {"x": torch.zeros(4)}, tmp_path / "model" / "model-00002-of-00002.safetensors"
    )
    shard = "model-00002-of-00002.safetensors"
    with pytest.raises(UserError, match=f"promises a in {shard}, which does not hold it$"):
        checkpoint.tensor_headers(tmp_path / "model")


def test_a_tensor_that_another_shard_holds_is_told(tmp_path):
    save_shards(tmp_path / "model")
    index = json.loads((tmp_path / "model" / checkpoint.INDEX).read_text())
    index["weight_map"]["a"] = index["weight_map"]["b"]
    index["weight_map"]["x"] = "model-00002-of-00002.safetensors"
    (tmp_path / "model" / checkpoint.INDEX).write_text(json.dumps(index))
    with pytest.raises(
        UserError, match=r"which does not hold it, but model-00002-of-00002\.safetensors does"
    ):
        checkpoint.tensor_headers(tmp_path / "model")


def test_a_tensor_in_two_shards_is_the_one_that_the_index_names(tmp_path):
    save_shards(tmp_path / "model")
    safetensors.torch.save_file(
        {"a": torch.zeros(4), "b": torch.zeros(2, 3)}, tmp_path / "model" / "model-00002-of-00002.safetensors"
    )
    assert view(checkpoint.tensor_headers(tmp_path / "model")["b"]).equal(torch.ones(2, 3))


@pytest.mark.parametrize("text", ["[]", "{}", "not json", '{"weight_map": {"a": "../../etc/passwd"}}'])
def test_a_broken_index(tmp_path, text):
    (tmp_path / checkpoint.INDEX).write_text(text)
    with pytest.raises(UserError, match="index"):
        checkpoint.tensor_headers(tmp_path)


def test_an_index_of_nothing(tmp_path):
    (tmp_path / checkpoint.INDEX).write_text('{"weight_map": {}}')
    with pytest.raises(UserError, match=r"index\.json: names no weights"):
        checkpoint.tensor_headers(tmp_path)


def test_a_link_to_weights_that_are_gone_is_told(tmp_path):
    weights = tmp_path / checkpoint.WEIGHTS
    weights.symlink_to("../blobs/123")
    with pytest.raises(UserError, match=r"safetensors: links to \.\./blobs/123, where nothing is; download"):
        checkpoint.tensor_headers(tmp_path)
    weights.unlink()
    weights.mkdir()
    with pytest.raises(UserError, match=r"holds no model\.safetensors$"):
        checkpoint.tensor_headers(tmp_path)


def test_a_missing_folder_is_named_absolutely(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=str(tmp_path / "nowhere")):
        checkpoint.tensor_headers(checkpoint.Path("nowhere"))


def test_a_folder_with_pickles_alone_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match=r"pytorch_model\.bin.*safetensors"):
        checkpoint.tensor_headers(tmp_path)


def test_an_adapter_alone_is_refused(tmp_path):
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="only an adapter"):
        checkpoint.tensor_headers(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        checkpoint.tensor_headers(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 8, 20, -1])
def test_a_file_that_is_cut_off_is_told(tmp_path, keep):
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"w": torch.randn(100)}, file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"cut off|is not a safetensors file"):
        checkpoint.tensor_headers(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04" + b"\xff" * 100, "is not a safetensors file"),
        ((2).to_bytes(8, "little") + b"[]", "header does not read"),
        ((4).to_bytes(8, "little") + b"\xff\xfe{}", "header does not read"),
    ],
)
def test_what_is_no_safetensors_file(tmp_path, content, told):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=told):
        checkpoint.tensor_headers(tmp_path)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}, "'w' is stored as F4"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "does not fit its shape"),
        ({"dtype": "F32", "shape": [2]}, "header does not read"),
    ],
)
def test_headers_that_lie(tmp_path, entry, told):
    text = json.dumps({"w": entry}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)
    with pytest.raises(UserError, match=told):
        checkpoint.tensor_headers(tmp_path)


# Writing tensors


def test_written_tensors_are_read_by_safetensors_bit_for_bit(tmp_path):
    tensors = {
        "wide": torch.randn(3, 5).t(),
        "half": torch.randn(3).half(),
        "brain": torch.randn(7).bfloat16(),
        "flag": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "count": torch.tensor([1, 2], dtype=torch.int64),
        "empty": torch.empty(0, 3),
    }
    checkpoint.write_tensors(tmp_path / "model.safetensors", tensors)
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            found = file.get_tensor(name)
            assert found.dtype == tensor.dtype
            assert found.equal(tensor)


def test_tied_copies_are_left_out_and_the_trunk_keeps_its_name(tmp_path):
    embedding = torch.nn.Embedding(4, 2)
    head = torch.nn.Linear(2, 4, bias=False)
    head.weight = embedding.weight
    model = torch.nn.ModuleDict({"transformer": embedding, "lm_head": head})
    checkpoint.write_tensors(tmp_path / "model.safetensors", model.state_dict())
    assert set(safetensors.torch.load_file(tmp_path / "model.safetensors")) == {"transformer.weight"}


def test_views_that_share_storage_but_differ_are_all_written(tmp_path):
    whole = torch.arange(6.0)
    checkpoint.write_tensors(tmp_path / "m.safetensors", {"a": whole[:3], "b": whole[3:], "c": whole})
    assert safetensors.torch.load_file(tmp_path / "m.safetensors")["b"].tolist() == [3.0, 4.0, 5.0]


# Side files, manifest, card


def test_a_manifest_comes_back_in_its_order_and_is_the_same_bytes_each_time(tmp_path):
    checkpoint.write_manifest(tmp_path, {"b": 1, "a": [1.5, "é"]})
    first = (tmp_path / "saft.json").read_bytes()
    assert list(checkpoint.read_manifest(tmp_path)) == ["b", "a"]
    checkpoint.write_manifest(tmp_path, checkpoint.read_manifest(tmp_path))
    assert (tmp_path / "saft.json").read_bytes() == first
    assert checkpoint.read_manifest(tmp_path) == {"a": [1.5, "é"], "b": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "saft did not write it"),
        ("{", "JSON"),
        ("[]", "JSON object"),
        ('{"a": NaN}', "JSON: NaN is not a number"),
        ('{"a": [-Infinity]}', "JSON: -Infinity is not a number"),
        ('{"a": 1e999}', "JSON: 1e999 is not a number"),
    ],
)
def test_a_manifest_that_is_missing_or_broken(tmp_path, text, told):
    if text is not None:
        (tmp_path / "saft.json").write_text(text)
    with pytest.raises(UserError, match=told):
        checkpoint.read_manifest(tmp_path)


def test_a_card_states_the_base_model_and_reads_back(tmp_path):
    checkpoint.write_card(
        tmp_path, "T", "Body.", base_model=["a/b"], relation="merge", tags=["merge", "saft"]
    )
    assert checkpoint.read_card(tmp_path) == {
        "base_model": ["a/b"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "saft"],
    }
    assert (tmp_path / "README.md").read_text().endswith("---\n\n# T\n\nBody.\n")


def test_a_card_without_a_hub_id_states_no_base_model(tmp_path):
    checkpoint.write_card(tmp_path, "T", "Body.", relation="merge")
    assert not {"base_model", "base_model_relation"} & set(checkpoint.read_card(tmp_path))


@pytest.mark.parametrize("text", [None, "no front matter", "---\n- [\n---\n", "---\n- a\n---\n"])
def test_no_card_or_a_strange_one_says_nothing(tmp_path, text):
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert checkpoint.read_card(tmp_path) == {}


# The dtype that config.json states


def _folder(path, tensors, config):
    path.mkdir(exist_ok=True)
    checkpoint.write_tensors(path / "model.safetensors", tensors)
    (path / "config.json").write_text(json.dumps(config, indent=4))
    return path / "config.json"


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_a_config_states_the_dtype_of_the_weights_and_keeps_the_rest(tmp_path, key):
    config = _folder(tmp_path, {"w": torch.ones(3), "n": torch.ones(9).long()}, {"b": 1, key: "bfloat16"})
    checkpoint.state_dtype(tmp_path)
    assert json.loads(config.read_text()) == {"b": 1, key: "float32"}


@pytest.mark.parametrize("stated", [{"dtype": "float32"}, {}, {"text_config": {"dtype": "float32"}}])
def test_a_config_that_is_right_stays_byte_for_byte(tmp_path, stated):
    config = _folder(tmp_path, {"w": torch.ones(3)}, stated)
    before = config.read_bytes()
    checkpoint.state_dtype(tmp_path)
    assert config.read_bytes() == before


def test_of_several_dtypes_that_of_most_weights_is_stated_and_parts_keep_theirs(tmp_path):
    tensors = {"norm": torch.ones(3), "w": torch.ones(30).bfloat16()}
    parts = {"a": {"dtype": "float32"}, "b": {"dtype": "float16"}}
    config = _folder(tmp_path, tensors, {"dtype": "float32", **parts})
    checkpoint.state_dtype(tmp_path)
    stated = json.loads(config.read_text())
    assert stated == {"dtype": "bfloat16", "a": {"dtype": "float32"}, "b": {"dtype": "bfloat16"}}


def test_the_layout_may_be_given_and_a_folder_without_config_is_left_alone(tmp_path):
    config = _folder(tmp_path / "a", {"w": torch.ones(3)}, {"dtype": "float32"})
    checkpoint.state_dtype(tmp_path / "a", {"w": (torch.float16, (3,))})
    assert json.loads(config.read_text()) == {"dtype": "float16"}
    config.unlink()
    checkpoint.state_dtype(tmp_path / "a")
    assert not config.exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", "[" * 10**5, '{"model_type": []}', '{"text_config": {"model_type": {"a": 1}}}']
)
def test_a_damaged_config_is_told(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        checkpoint.model_config(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("hidden_dropout_prob", math.nan, "must be a number, but is NaN"),
        ("layer_norm_eps", math.nan, "must be a number, but is NaN"),
        ("attention_dropout", 2.0, "must be a probability from 0 to 1, but is 2.0"),
        ("resid_pdrop", -0.5, "must be a probability from 0 to 1, but is -0.5"),
        ("drop_path_rate", math.inf, "must be a probability from 0 to 1, but is inf"),
        ("decoder_layerdrop", 3, "must be a probability from 0 to 1, but is 3"),
        ("dropout", 10**9, "must be a probability from 0 to 1, but is 1000000000"),
    ],
)
def test_a_number_that_no_model_computes_with_is_told(
    tmp_path: Path, key: str, value: float, problem: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {key: value}}))
    with pytest.raises(UserError, match=rf"config\.json: {key}: {problem}; copy or download it again"):
        checkpoint.model_config(tmp_path)
    fine = {"dropout": 0, "classifier_dropout": None, "drop_path_rate": 1, "time_step_limit": math.inf}
    (tmp_path / "config.json").write_text(json.dumps(fine))
    assert checkpoint.model_config(tmp_path) == fine


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "encoder_layers", "num_local_experts"])
def test_a_config_that_asks_for_more_layers_than_memory_holds_is_told(tmp_path, key):
    """transformers went on making them for minutes."""
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {key: 10**9}}))
    with pytest.raises(UserError, match=rf"config\.json: {key}: must be at most 10000, but is 1000000000"):
        checkpoint.model_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({key: 126, "vocab_size": 10**6, "layers": [10**9]}))
    assert checkpoint.model_config(tmp_path)[key] == 126
