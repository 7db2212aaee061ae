"""Names, groups and options -> measures."""

from __future__ import annotations

import pytest

from saft.errors import UserError
from saft.interference import MEASURES
from saft.interference.chosen_measures import chosen
from saft.interference.loss import loss_measures
from saft.interference.sharpness import Sharpness


def test_groups_are_names():
    assert list(chosen(["all"], "measures")) == MEASURES.names()
    standard = chosen(["standard"], "measures")
    assert {"cosine", "leave_one_out", "sharpness"} <= set(standard) < set(MEASURES.names())
    assert next(iter(chosen(["cosine", "standard"], "measures"))) == "cosine"


def test_options_of_an_entry_win_over_common_ones_wherever_the_group_stands():
    entry = {"name": "sharpness", "rho": 0.5}
    for entries in (["standard", entry], [entry, "standard"]):
        assert chosen(entries, "measures", rho=0.1)["sharpness"] == Sharpness(rho=0.5)
    assert chosen(["sharpness"], "measures", rho=0.1)["sharpness"] == Sharpness(rho=0.1)


def test_a_measure_of_your_own_is_named_by_module(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from saft.interference.transfer import Transfer\nclass Own(Transfer):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert type(chosen(["mine:Own"], "measures")["mine:Own"]).__name__ == "Own"


def test_every_mistake_is_told_at_once():
    entries = [
        "cosin",
        {"rho": 1},
        {"name": "sharpness", "radius": 1},
        {"name": "hessian_trace", "n_samples": 0},
    ]
    with pytest.raises(UserError) as caught:
        chosen(entries, "measures")
    assert caught.value.problems == (
        "measures.1.name: is required, but missing",
        "measures: unknown measure 'cosin'; did you mean 'cosine'?",
        "measures: sharpness: unknown option 'radius'; choose from: adaptive, n_steps, rho",
        "measures: hessian_trace.n_samples: must be at least 1, but is 0",
    )


def test_only_standard_measures_of_the_loss_are_made_in_a_run():
    assert loss_measures(rho=0.3) == [Sharpness(rho=0.3)]
