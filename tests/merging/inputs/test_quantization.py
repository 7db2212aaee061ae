"""Quantized weights are known by the config, by files beside them, and by their dtypes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from saft.errors import UserError
from saft.merging.inputs.source import read_source

NORM = {"norm.weight": torch.ones(4).half()}
CODES = torch.ones(4, 4)


@pytest.fixture
def read(save):
    def folder(tensors, config="{}", **files):
        location = save("model", tensors, **{"config.json": config}, **files)
        return read_source(location, Path(location))

    return folder


@pytest.mark.parametrize(
    ("tensors", "sign"),
    [
        ({"up.weight": CODES.to(torch.uint32), "up.scales": torch.ones(4)}, "up.weight.* is uint32"),
        ({"up.qweight": CODES.int()}, "up.qweight.* is int32"),
        ({"up.weight_packed": CODES.int()}, "up.weight_packed"),
        ({"up.W_q": CODES.byte()}, "up.W_q"),
        ({"up.weight": CODES.char(), "up.SCB": torch.ones(4)}, "up.weight.* is int8"),
        ({"up.weight": CODES.to(torch.float8_e4m3fn), "up.weight_scale": torch.ones(4)}, "a scale beside"),
        (
            {"up.weight": CODES.to(torch.float8_e4m3fn), "up.weight_scale_inv": torch.ones(4)},
            "a scale beside",
        ),
    ],
)
def test_codes_are_known_by_their_dtype(read, tensors, sign):
    with pytest.raises(UserError, match=f"{sign}.*quantized, and codes cannot be added up"):
        read(NORM | tensors)


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"quantization": {"group_size": 32, "bits": 4}},
        {"text_config": {"quantization_config": {"bits": 4}}},
    ],
)
def test_codes_are_known_by_the_config(read, config):
    with pytest.raises(UserError, match=r"config\.json: says that the weights are quantized \(quant"):
        read(NORM, json.dumps(config))


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_codes_are_known_by_a_file_beside_them(read, name):
    with pytest.raises(UserError, match=f"{name}: says that the weights are quantized"):
        read(NORM, **{name: '{"bits": 4}'})


def test_buffers_of_integers_and_plain_floats_of_eight_bits_are_not_codes(read):
    buffers = {
        "position_ids": torch.arange(4),
        "attn.bias": torch.ones(1, 1, 4, 4).byte(),
        "relative_position_index": torch.ones(4, 4).long(),
        "bn.num_batches_tracked": torch.tensor(3),
        "mask.weight": torch.tensor([True, False]),
        "w.weight": CODES.to(torch.float8_e4m3fn),
    }
    assert set(read(NORM | buffers, '{"quantization_config": null}').headers) == {*NORM, *buffers}
