from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import pytest

from saft import config
from saft.errors import UserError
from saft.training.merged_start import MergedStart
from saft.training.options import TrainingOptions


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("cosine", 0, [1, 0.853553, 0.5, 0.146447]),
        ("linear", 1, [0.5, 1, 2 / 3, 1 / 3]),
    ],
)
def test_schedules(
    schedule: Literal["constant", "linear", "cosine"], warmup: int, expected: list[float]
) -> None:
    options = TrainingOptions(steps=4, schedule=schedule, warmup_steps=warmup)
    assert [options.learning_rate_factor(step) for step in range(4)] == pytest.approx(expected, abs=1e-6)


def test_passes_of_a_training_are_those_that_it_takes() -> None:
    def passes(**perturbation: Any) -> float:
        return TrainingOptions(steps=12, perturbation=perturbation or None).passes

    assert passes() == passes(name="sam", rho=0.0) == passes(name="momentum_sam") == 12
    assert passes(name="sam", rho=0.05) == 24


@pytest.mark.parametrize(
    ("parametrization", "goes"),
    [
        ({"name": "attention"}, False),
        ({"name": "sparse"}, False),
        ({"name": "lora"}, False),
        ({"name": "only", "tensors": ["*norm*"]}, True),
        (None, True),
    ],
)
def test_norms_are_climbed_only_where_they_are_trained(
    parametrization: dict[str, Any] | None, goes: bool
) -> None:
    given = {"perturbation": {"name": "norm_only"}, "parametrization": parametrization}
    if goes:
        config.parse(TrainingOptions, given, "f.yaml")
        return
    with pytest.raises(
        UserError, match="perturbation: norm_only climbs along norms, of which parametrization"
    ):
        config.parse(TrainingOptions, given, "f.yaml")


@pytest.mark.parametrize(
    ("optimizer", "goes"),
    [
        ({"name": "torch.optim:SGD"}, False),
        ({"name": "torch.optim:Adagrad"}, False),
        ({"name": "torch.optim:SGD", "momentum": 0.9}, True),
        ({"name": "torch.optim:NAdam"}, True),
    ],
)
def test_a_momentum_is_climbed_only_where_the_optimizer_keeps_one(
    optimizer: dict[str, Any], goes: bool
) -> None:
    """Told before a training: at its second step, a first one was lost."""
    given = {"perturbation": {"name": "momentum_sam"}, "optimizer": optimizer}
    if goes:
        config.parse(TrainingOptions, given, "f.yaml")
        return
    with pytest.raises(UserError, match="MomentumSAM needs the momentum of the base optimizer, which keeps"):
        config.parse(TrainingOptions, given, "f.yaml")


def test_the_first_round_has_the_ascent_unless_it_says_otherwise_or_there_are_no_others_yet() -> None:
    start = MergedStart("ties")
    sam = {"name": "sam", "rho": 0.01}

    def first_of(**options: Any) -> dict[str, Any] | None:
        first = TrainingOptions(steps=4, **options).first
        assert first is not None
        return first.perturbation

    assert first_of(perturbation=sam, first_round={"steps": 3}, start=start) == sam
    assert TrainingOptions(steps=4, perturbation=sam, first_round={"steps": 3}, start=start).passes == 14
    assert first_of(perturbation=sam, first_round={"steps": 3, "perturbation": None}, start=start) is None
    assert first_of(perturbation={"name": "task_vectors"}, first_round={"steps": 3}) is None
    others = sam | {"rho": "others"}
    assert first_of(perturbation=others, first_round={"steps": 3}) is None


def test_what_was_summarized_at_the_base_is_no_penalty_of_a_training_from_a_merge() -> None:
    kfac = {"name": "kfac_drift", "summaries": ["a.safetensors"]}

    def check(penalty: dict[str, Any] | None, first: dict[str, Any] | None, rounds: int) -> None:
        start = MergedStart("ties", rounds=rounds)
        first_round = {"steps": 3, "penalty": first}
        TrainingOptions(steps=4, penalty=penalty, first_round=first_round, start=start).check_options()

    check(None, kfac, 1)  # which is at the base
    for wrong in ((kfac, kfac, 1), (kfac, None, 1), (None, kfac, 2)):
        with pytest.raises(UserError, match="start: is a merge, and penalty: summaries are of the base"):
            check(*wrong)


@pytest.mark.parametrize(
    ("perturbation", "ascend", "message"),
    [
        ({"name": "looksam"}, "loss", "penalty: ascend: is loss, but LookSAM combines both gradients"),
        ({"name": "gsam"}, "penalty", "penalty: ascend: is penalty, but GSAM combines both gradients"),
        ({"name": "sam", "rho": "auto"}, "penalty", "penalty: ascend: is penalty, which begins at 0"),
        ({"name": "looksam"}, "both", None),
        ({"name": "sam", "rho": "auto"}, "loss", None),
    ],
)
def test_gradients_that_are_combined_are_of_one_sum(
    perturbation: dict[str, Any], ascend: str, message: str | None
) -> None:
    with nullcontext() if message is None else pytest.raises(UserError, match=message):
        TrainingOptions(perturbation=perturbation, penalty={"name": "drift", "ascend": ascend})


@pytest.mark.parametrize("key", ["optimizer", "perturbation", "penalty", "parametrization", "averaging"])
def test_a_name_alone_is_told_as_what_it_is_to_be_written(key: str) -> None:
    with pytest.raises(UserError) as caught:
        config.parse(TrainingOptions, {key: "torch.optim:SGD"}, "t.yaml", "training")
    assert str(caught.value) == f"t.yaml: training.{key}: must be a mapping; write {{name: torch.optim:SGD}}"
