from __future__ import annotations

import copy
import gc
import pickle

import torch
from torch import nn

from saft.optim.backward_count import BackwardCount


def test_it_counts_what_adds_up_and_starts_afresh_when_the_gradient_is_cleared() -> None:
    w, count = nn.Parameter(torch.ones(3)), BackwardCount()
    count.watch([w])
    for expected in (1, 2, 3):
        w.sum().backward()
        assert count.passes == expected
    w.grad = None
    w.sum().backward()
    assert count.passes == 1
    count.restart()
    w.sum().backward()
    assert count.passes == 1


def test_it_moves_to_a_parameter_that_has_gradients() -> None:
    unused, used, count = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1)), BackwardCount()
    count.watch([unused])
    count.watch([used])
    used.sum().backward()
    assert count.passes == 1
    assert not unused._backward_hooks
    count.watch([unused, used])  # one of them is watched already
    used.sum().backward()
    assert count.passes == 2
    count.close()
    assert not used._backward_hooks


def test_it_tells_whether_the_gradient_was_cleared() -> None:
    w, count = nn.Parameter(torch.ones(3)), BackwardCount()
    w.sum().backward()
    count.watch([w])
    for clear, expected in ((lambda: None, True), (w.grad.zero_, False)):
        count.expect_clearing()
        clear()
        w.sum().backward()
        assert count.was_not_cleared() is expected
    count.expect_clearing()
    w.grad = None
    w.sum().backward()
    assert not count.was_not_cleared()
    count.expect_clearing()  # and nothing happens
    assert count.was_not_cleared()
    w.grad = None
    count.expect_clearing()
    w.sum().backward()
    assert not count.was_not_cleared()


def test_hooks_are_neither_copied_nor_pickled_nor_keep_anything_alive() -> None:
    w, count = nn.Parameter(torch.ones(3)), BackwardCount()
    count.watch([w])
    for twin in (copy.deepcopy(count), pickle.loads(pickle.dumps(count))):
        assert twin.passes == 0
    assert not copy.deepcopy(w)._backward_hooks
    del count
    gc.collect()
    w.sum().backward()
