from __future__ import annotations

import inspect

import pytest

from saft.training.signatures import arguments, classes_of


def test_lightning_takes_what_its_source_says() -> None:
    import lightning as L

    assert (
        list(arguments("lightning.pytorch.trainer.trainer", "Trainer"))
        == [*inspect.signature(L.Trainer.__init__).parameters][1:]
    )


@pytest.mark.parametrize("name", classes_of("torch.optim"))
def test_an_optimizer_takes_what_its_source_says(name: str) -> None:
    import torch

    kind = getattr(torch.optim, name)
    assert list(arguments(classes_of("torch.optim")[name], name)) == list(inspect.signature(kind).parameters)


def test_kinds_are_those_that_yaml_can_write() -> None:
    taken = arguments("lightning.pytorch.trainer.trainer", "Trainer")
    assert taken["devices"] == {list, int, str}
    assert taken["accelerator"] == {str}, "an accelerator cannot be written in YAML"
    assert taken["precision"] == set(), "is told by another name"


def test_what_is_not_there_takes_nothing() -> None:
    assert arguments("no_such_library.module", "Class") == {}
    assert arguments("torch.no_such_module", "Class") == {}
    assert arguments("torch.optim.sgd", "Class") == {}
    assert classes_of("no_such_library") == {}
