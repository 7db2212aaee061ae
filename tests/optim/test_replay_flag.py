from __future__ import annotations

import pytest

from saft.optim.replay_flag import is_replay, replaying


def test_the_flag_nests_and_survives_exceptions() -> None:
    assert not is_replay()
    with replaying():
        with pytest.raises(ValueError, match="stop"), replaying():
            raise ValueError("stop")
        assert is_replay()
    assert not is_replay()
