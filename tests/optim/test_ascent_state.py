from __future__ import annotations

import io

import numpy
import pytest
import torch

from saft.errors import UserError
from saft.optim import make_perturbation
from saft.optim.ascent_state import restored, saved

AUTO = make_perturbation("sam", rho="auto", every=2)


def test_a_radius_that_is_still_to_be_found_stays_so() -> None:
    assert saved(AUTO, 3, {})["rho"] is None
    assert restored(AUTO, saved(AUTO, 3, {})) == AUTO


def test_one_that_was_found_is_taken_and_nothing_else() -> None:
    found = restored(AUTO, saved(make_perturbation("sam", rho=0.3), 3, {}))
    assert found == make_perturbation("sam", rho=0.3, every=2)


def test_a_radius_from_numpy_is_saved_as_a_plain_number_which_torch_reads_again() -> None:
    file = io.BytesIO()
    radius = numpy.geomspace(0.01, 1, 3, dtype=numpy.float32)[1]
    torch.save(saved(make_perturbation("sam", rho=radius), 3, {}), file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["rho"] == pytest.approx(0.1)


def test_a_number_and_a_radius_of_another_metric_are_left() -> None:
    number = make_perturbation("sam", rho=0.1)
    assert restored(number, saved(make_perturbation("sam", rho=0.3), 3, {})) == number
    assert restored(AUTO, saved(make_perturbation("asam", rho=0.3), 3, {})) == AUTO


def test_a_checkpoint_from_before_there_was_a_radius_in_it_is_read() -> None:
    state = saved(make_perturbation("sam", rho=0.3), 3, {})
    del state["rho"]
    assert restored(AUTO, state) == AUTO


def test_what_another_perturbation_remembered_is_refused() -> None:
    state = saved(make_perturbation("looksam"), 3, {0: {"g": torch.ones(1)}})
    with pytest.raises(UserError, match="the checkpoint holds what LookSAM remembered"):
        restored(AUTO, state)
