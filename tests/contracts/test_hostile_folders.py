"""A folder that someone else made: whatever its files say, a merge ends in a result or in one clear message."""

from __future__ import annotations

import contextlib
import json
import os

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from saft.errors import UserError
from saft.files.checkpoint import write_tensors
from saft.merge import merge
from saft.merging.inputs import task_parts
from saft.merging.merge_config import MergeConfig

# The first tier tries a hundred; SAFT_FUZZ says how many more.
CASES = int(os.environ.get("SAFT_FUZZ", "100"))

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = {
    "config.json": [
        *("model_type", "dtype", "torch_dtype", "tie_word_embeddings", "quantization", "text_config"),
        *("num_attention_heads", "rope_scaling", "auto_map", "max_position_embeddings"),
    ],
    "saft.json": ["kind", "tasks", "models", "method", "interventions", "parameters", "pooling"],
    "model.safetensors.index.json": ["weight_map", "metadata"],
    "adapter_config.json": [
        *("peft_type", "r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_rslora", "fan_in_fan_out"),
        *("target_modules", "init_lora_weights", "modules_to_save", "bias"),
    ],
    "README.md": ["base_model", "tags"],
}
SHAPE = (4, 4)


@st.composite
def texts(draw, name):
    """What a file may hold: known keys with any values, or what is no JSON at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(["", "{", "[]", "null", "[" * 2000, "\ud800", "---\n- &a [*a]\n---\n"]))
    values = VALUES | st.sampled_from(["LORA", "base.json", "../secret", "os:system", "parts", "(a*)*b"])
    mapping = draw(st.dictionaries(st.sampled_from(KEYS[name]), values, max_size=5))
    text = json.dumps(mapping)
    return f"---\n{text}\n---\n" if name == "README.md" else text


def put(folder, name, text):
    (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, a model, and an adapter of the base."""
    folder = tmp_path_factory.mktemp("hostile")
    for seed, name in enumerate(("base", "model")):
        (folder / name).mkdir()
        weight = torch.randn(SHAPE, generator=torch.manual_seed(seed))
        write_tensors(folder / name / "model.safetensors", {"layers.0.proj.weight": weight})
    (folder / "adapter").mkdir()
    factors = {f"base_model.model.layers.0.proj.lora_{x}.weight": torch.ones(4, 4) for x in "AB"}
    write_tensors(folder / "adapter" / "adapter_model.safetensors", factors)
    (folder / "secret").write_text("secret")
    return folder


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("of", ["base", "model", "adapter"])
def test_a_merge_ends_in_a_folder_or_in_a_message(place, of, name):
    folder = place / of
    whole = {file: file.read_bytes() for file in folder.iterdir()}

    @settings(
        max_examples=max(CASES // 15, 5),
        deadline=None,
        derandomize=CASES == 100,
        suppress_health_check=list(HealthCheck),
    )
    @given(text=texts(name))
    def ends(text):
        if of == "adapter" and name != "adapter_config.json":
            put(folder, "adapter_config.json", '{"peft_type": "LORA", "lora_alpha": 4}')
        put(folder, name, text)
        model = place / ("adapter" if of == "adapter" else "model")
        with contextlib.suppress(UserError):
            merge(
                MergeConfig("average", str(place / "base"), {"a": str(model)}), place / "out", overwrite=True
            )
        assert {entry.name for entry in place.iterdir()} <= {"base", "model", "adapter", "secret", "out"}

    try:
        ends()
    finally:
        for file in folder.iterdir():
            if file not in whole:
                file.unlink()


@settings(max_examples=CASES, deadline=None, derandomize=CASES == 100)
@given(
    changes=st.dictionaries(
        st.sampled_from(
            ["method", "models", "rescalers", "scaling", "arithmetic", "dtype", "parameters", "kind"]
        ),
        VALUES | st.sampled_from(["subprocess:getoutput", [{"task": "../../secret"}], {"../../secret": 1.0}]),
        max_size=3,
    )
)
def test_a_folder_of_parts_is_read_or_refused(merged_parts, changes):
    manifest = json.loads(merged_parts[1])
    (merged_parts[0] / "saft.json").write_text(json.dumps(manifest | changes))
    try:
        parts = task_parts.read(merged_parts[0])
        for task in parts.tasks:
            list(parts.task_tensors(task))
    except UserError:
        pass


@pytest.fixture(scope="module")
def merged_parts(place):
    """A folder with a part per task, and what its manifest says."""
    out = place.parent / "parts"
    merge(MergeConfig("emr", str(place / "base"), {"a": str(place / "model")}), out)
    return out, (out / "saft.json").read_text()
