"""Which tensors have no numbers of their own, or numbers that stand for others."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from saft.files.plain_tensors import not_plain


def nested() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a prototype
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def quantized() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is going to leave torch
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (torch.nn.LazyLinear(2).weight, "not initialized"),
        (nested(), "nested"),
        (torch.ones(2, 2).to_sparse(), "to_dense"),
        (quantized(), "dequantize"),
        (torch.ones(2, device="meta"), "'meta'"),
    ],
    ids=["lazy", "nested", "sparse", "quantized", "meta"],
)
def test_what_keeps_a_tensor_from_being_read(tensor: Tensor, told: str) -> None:
    assert told in (not_plain(tensor) or "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.int8, torch.bool])
def test_a_plain_one_is_read(dtype: torch.dtype) -> None:
    several = torch.ones(3, 4, dtype=dtype)
    assert all(not_plain(tensor) is None for tensor in (several, several.T, several[0, 0], several[:0]))
    assert not_plain(torch.nn.Parameter(torch.ones(2))) is None
