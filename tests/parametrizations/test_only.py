"""Only some tensors: patterns that match nothing are told."""

from __future__ import annotations

import pytest
from torch import nn

from saft.errors import UserError
from saft.parametrizations import parametrization
from saft.parametrizations.only import Only


def test_every_pattern_must_match_a_tensor() -> None:
    with pytest.raises(
        UserError, match=r"parametrization: tensors: 'wieght' matches no tensor of Linear; did"
    ):
        Only(tensors=["bias", "wieght"]).wrap(nn.Linear(1, 1), lambda count: iter(()))


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(UserError, match="tensors: must not be empty"):
        parametrization("only", tensors=[])
