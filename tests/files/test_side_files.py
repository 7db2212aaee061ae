"""What goes with the weights of a model, and what stays behind."""

from __future__ import annotations

import json

import pytest

from saft.errors import UserError
from saft.files.side_files import copy_side_files, custom_code

WANTED = [
    *("config.json", "tokenizer.json", "vocab.txt", "spiece.model", "chat_template.jinja", "vocab.bpe"),
    *("source.spm", "target.spm", "bpe.codes", "prophetnet.tokenizer", "cl100k.tiktoken", "LICENSE"),
    *("generation_config.json", "preprocessor_config.json", "modules.json", "1_Pooling/config.json"),
    "additional_chat_templates/tool_use.jinja",
]
UNWANTED = [
    *("README.md", "model.safetensors", "pytorch_model.bin", "saft.json", "model.safetensors.index.json"),
    *("heads/a.json", "onnx/config.json", "adapter_config.json", "trainer_state.json", "modeling_x.py"),
    *("tf_model.h5", "model.gguf", "flax_model.msgpack", "optimizer.pt", ".gitattributes", "parts/a.json"),
    *("pytorch_model.bin.index.json", "training_args.bin"),
]


@pytest.fixture
def folders(tmp_path):
    base, target = tmp_path / "base", tmp_path / "target"
    base.mkdir()
    target.mkdir()
    return base, target


def test_every_file_goes_with_the_weights_but_weights_code_and_what_is_written_anew(folders):
    base, target = folders
    for name in WANTED + UNWANTED:
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_bytes(f"{name}\r\n".encode())
    copy_side_files(base, target)
    copied = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
    assert copied == set(WANTED)
    assert all((target / name).read_bytes() == (base / name).read_bytes() for name in WANTED)


def test_code_that_a_config_names_is_not_named_in_the_copy(folders):
    base, target = folders
    (base / "modeling_x.py").write_text("raise SystemExit")
    (base / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoModel": "modeling_x.X"}}')
    (base / "tokenizer_config.json").write_text('{"a": 1}')
    inner = {
        "size": 4,
        "auto_map": {"AutoImageProcessor": "processing_x.X"},
    }  # as processors of several have it
    (base / "processor_config.json").write_text(json.dumps({"image_processor": inner, "more": [inner]}))
    assert custom_code(base) == ["modeling_x.py", "config.json", "processor_config.json"]
    copy_side_files(base, target)
    plain = {"image_processor": {"size": 4}, "more": [{"size": 4}]}
    assert json.loads((target / "processor_config.json").read_text()) == plain
    assert json.loads((target / "config.json").read_text()) == {"model_type": "x"}
    assert (target / "tokenizer_config.json").read_text() == '{"a": 1}'
    assert custom_code(target) == []


@pytest.mark.parametrize("name", ["vocab.txt", "1_Pooling/config.json", "config.json"])
def test_a_link_out_of_the_folder_is_not_followed(folders, tmp_path, name):
    base, target = folders
    (tmp_path / "secret").write_text("{}")
    (base / "modules.json").write_text("[]")
    (base / name).parent.mkdir(exist_ok=True)
    (base / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="leads out of its folder"):
        copy_side_files(base, target)
