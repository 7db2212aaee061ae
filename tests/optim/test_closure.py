from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning.pytorch.core.optimizer import do_nothing_closure
from torch import nn
from torch.optim import SGD

from saft.errors import UserError
from saft.optim import Ascent
from saft.optim.closure import call_without_backward, require_fresh_gradients, written_by_lightning


def mine() -> None:
    pass


@pytest.mark.parametrize(
    ("closure", "expected"),
    [
        (mine, False),
        (partial(mine), False),
        (do_nothing_closure, True),
        (partial(do_nothing_closure), True),
        (partial(print, do_nothing_closure), True),  # as a precision plug-in wraps it
        (partial(print, mine), False),
    ],
)
def test_whose_closure_it_is(closure: object, expected: bool) -> None:
    assert written_by_lightning(closure) is expected


def test_messages_speak_of_what_the_user_wrote() -> None:
    model = nn.Linear(2, 1)
    ascent = Ascent(SGD(model.parameters(), lr=0.1))
    model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(UserError, match=r"^the closure did not zero"), require_fresh_gradients(ascent):
        model(torch.ones(1, 2)).sum().backward()
    for inside, message in (
        (lambda: None, "perturbed"),
        (model(torch.ones(1, 2)).sum().backward, "callback"),
    ):
        with pytest.raises(UserError, match=message) as raised, require_fresh_gradients(ascent, True):
            inside()
        assert "closure" not in str(raised.value)


def test_a_closure_is_called_once_when_the_gradient_is_ready() -> None:
    model = nn.Linear(2, 1)
    ascent = Ascent(SGD(model.parameters(), lr=0.1))
    model(torch.ones(1, 2)).sum().backward()
    assert call_without_backward(ascent, lambda: 3) == 3
    with pytest.raises(UserError, match="computed another"):
        call_without_backward(ascent, model(torch.ones(1, 2)).sum().backward)
