"""Tensors that share a part of their memory are found, and those that lie between each other are none."""

from __future__ import annotations

import itertools

import pytest
import torch

from saft.merging.inputs.shared_memory import first_overlap


def test_every_window_of_a_small_matrix_against_its_entries():
    whole = torch.arange(12).view(3, 4)
    windows = [
        whole[rows, columns]
        for rows in (slice(0, 2), slice(1, 3), slice(0, 3, 2))
        for columns in (slice(0, 2), slice(1, 4), slice(1, 4, 2))
    ]
    windows += [window.T for window in windows]
    for one, other in itertools.product(windows, windows):
        same = (one.shape, one.stride(), one.data_ptr()) == (other.shape, other.stride(), other.data_ptr())
        share = bool(set(one.flatten().tolist()) & set(other.flatten().tolist()))
        found = first_overlap({"one": one, "other": other})
        assert (found is not None) == (share and not same), (one, other)
        assert found is None or set(found) == {"one", "other"}


def test_what_is_only_read_may_overlap_and_is_named_where_it_is_written():
    whole = torch.zeros(8)
    assert first_overlap({}, {"a": whole[:5], "b": whole[3:]}) is None
    assert first_overlap({"c": torch.zeros(8)}, {"a": whole[:5], "b": whole[3:]}) is None
    assert first_overlap({"c": whole[:2]}, {"b": whole[:5]}) == ("c", "b")
    assert first_overlap({"c": whole}, {"b": whole.view(8)}) is None


def test_a_window_that_slides_repeats_its_entries():
    assert first_overlap({"a": torch.zeros(6).unfold(0, 3, 1)}) == ("a", "a")
    assert first_overlap({"a": torch.zeros(6).unfold(0, 3, 3)}) is None
    assert first_overlap({"a": torch.zeros(3, 1).expand(3, 2)}) == ("a", "a")
    assert first_overlap({}, {"a": torch.zeros(3, 1).expand(3, 2)}) is None


@pytest.mark.parametrize("start", [0, 1, 3])
def test_other_dtypes_of_the_same_memory_overlap(start):
    whole = torch.zeros(8)
    halves = whole.view(torch.bfloat16)[start : start + 2]
    assert first_overlap({"whole": whole[:3], "halves": halves}) is not None
    assert first_overlap({"whole": whole[3:], "halves": halves}) is None


def test_tensors_without_entries_and_numbers():
    whole = torch.zeros(4)
    assert (
        first_overlap({"none": whole[:0], "one": whole[1], "two": whole[2], "all": torch.zeros(())}) is None
    )
    assert first_overlap({"one": whole[1], "more": whole[:2]}) is not None
