"""What every registered penalty owes, whatever it computes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saft.errors import UserError
from saft.penalties import PENALTIES, Setting, Unlabelled, penalty
from saft.tasks.examples import Batch, Examples

NAMES = PENALTIES.names()
WIDTH, TOKENS = 6, 11


class Trunk(nn.Module):
    """An embedding, a norm, dropout, linear layers with and without a bias, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(0.3)
        self.hidden = nn.Linear(WIDTH, 8)
        self.out = nn.Linear(8, WIDTH, bias=False)
        self.pooler = nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.dropout(self.norm(self.embed(input_ids)))
        return self.out(torch.tanh(self.hidden(x)))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.head = nn.Linear(WIDTH, 2)


def features(trunk: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Return the mean over the tokens that are no padding."""
    mask = inputs["attention_mask"].unsqueeze(-1)
    return (trunk(inputs["input_ids"]) * mask).sum(1) / mask.sum(1)


def unlabelled(count: int = 40, seed: int = 0) -> Unlabelled:
    """Return texts of 2 to 5 tokens, padded with 0."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, TOKENS, (count, 5), generator=generator)
    lengths = torch.randint(2, 6, (count,), generator=generator)
    mask = (torch.arange(5) < lengths[:, None]).long()

    def collate(indices: list[int]) -> Batch:
        inputs = {"input_ids": (ids * mask)[indices], "attention_mask": mask[indices]}
        return Batch(inputs, torch.full((len(indices),), 10**9))  # a label that nothing could use

    return Unlabelled(features, Examples(lengths.tolist(), collate))


def setting(steps: int = 24, cache: Path | None = None, tasks: int = 2) -> Setting:
    reference = {f"task{number}": unlabelled(seed=1 + number) for number in range(tasks)}
    return Setting(unlabelled(), reference, seed=3, steps=steps, cache=cache)


def model_of(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model().train()


def moved(model: nn.Module, by: float = 0.1) -> None:
    with torch.no_grad():
        generator = torch.Generator().manual_seed(7)
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=by)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    values = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: value for name, value in zip(named, values, strict=True) if value is not None}


def test_the_registry_holds_what_is_promised() -> None:
    assert {"drift", "kfac_drift", "l2_base", "tau_jp"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_at_the_base_it_is_zero_and_pulls_nowhere(name: str) -> None:
    model = model_of()
    bound = penalty(name).bind(model.trunk, setting())
    loss = bound.loss(model.trunk, 0)
    assert loss.shape == ()
    assert loss.item() == 0
    assert all(value.abs().max() == 0 for value in gradients(model, loss).values())


@pytest.mark.parametrize("name", NAMES)
def test_away_from_the_base_it_is_positive_and_its_gradient_is_that_of_its_value(name: str) -> None:
    model = model_of()
    bound = penalty(name).bind(model.trunk, setting())
    moved(model)
    loss = bound.loss(model.trunk, 8)
    assert loss.item() > 0
    slopes = gradients(model, loss)
    assert not any(key.startswith("head") for key in slopes)
    assert slopes
    torch.manual_seed(5)
    direction = {key: torch.randn_like(value) for key, value in slopes.items()}

    def at(distance: float) -> float:
        there = copy.deepcopy(model).double()
        with torch.no_grad():
            for key, value in there.named_parameters():
                if key in direction:
                    value.add_(direction[key].double(), alpha=distance)
        return bound.loss(there.float().trunk, 8).double().item()

    slope = sum((slopes[key] * direction[key]).sum().item() for key in slopes)
    assert (at(1e-2) - at(-1e-2)) / 2e-2 == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_in_bfloat16_it_is_about_the_same(name: str) -> None:
    def value(enabled: bool) -> tuple[float, dict[str, Tensor]]:
        model = model_of()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            bound = penalty(name).bind(model.trunk, setting())
            assert bound.loss(model.trunk, 0).item() == 0
        moved(model)  # outside, where it is between the steps too: autocast keeps what it has cast
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = bound.loss(model.trunk, 8)
        return loss.item(), gradients(model, loss)

    (whole, slopes), (mixed, mixed_slopes) = value(False), value(True)
    assert mixed == pytest.approx(whole, rel=0.02)
    assert mixed_slopes.keys() == slopes.keys()
    for key, slope in slopes.items():
        assert mixed_slopes[key].dtype == slope.dtype
        assert torch.cosine_similarity(mixed_slopes[key].flatten(), slope.flatten(), 0) > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_lambda_and_k_multiply_it(name: str) -> None:
    def value(**options: Any) -> float:
        model = model_of()
        bound = penalty(name, **options).bind(model.trunk, setting())
        moved(model)
        return bound.loss(model.trunk, 12).item()

    once = value(strength=0.5, every=1)
    assert value(strength=2.0, every=1) == pytest.approx(4 * once)
    assert value(strength=0.5, every=3) == pytest.approx(3 * once)


@pytest.mark.parametrize("name", NAMES)
def test_it_depends_on_the_seed_the_step_and_the_weights_and_on_nothing_that_ran_before(name: str) -> None:
    model = model_of()
    bound = penalty(name, every=4).bind(model.trunk, setting())
    moved(model)
    first = [bound.loss(model.trunk, step) for step in (0, 4, 8)]
    torch.manual_seed(99)
    torch.rand(5)
    again = [bound.loss(model.trunk, step) for step in (8, 4, 0)]
    assert [loss.item() for loss in first] == [loss.item() for loss in reversed(again)]

    resumed = model_of()  # bound anew, as after an interruption, to the base; then at the same weights
    bound = penalty(name, every=4).bind(resumed.trunk, setting())
    resumed.load_state_dict(model.state_dict())
    assert [bound.loss(resumed.trunk, step).item() for step in (0, 4, 8)] == [loss.item() for loss in first]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_cache_holds_is_what_would_be_computed(name: str, tmp_path: Path) -> None:
    values = []
    for cache in (None, tmp_path, tmp_path):
        model = model_of()
        bound = penalty(name).bind(model.trunk, setting(cache=cache))
        moved(model)
        values.append([bound.loss(model.trunk, step).item() for step in (0, 8)])
    assert values[0] == values[1] == values[2]
    other = model_of(1)  # of another base nothing is taken
    bound = penalty(name).bind(other.trunk, setting(cache=tmp_path))
    assert bound.loss(other.trunk, 0).item() == 0


@pytest.mark.parametrize("name", NAMES)
def test_it_leaves_the_random_stream_the_modes_and_the_gradients_alone(name: str) -> None:
    model = model_of()
    model.head.eval()
    modes = [module.training for module in model.modules()]
    before = torch.get_rng_state()
    bound = penalty(name).bind(model.trunk, setting())
    bound.loss(model.trunk, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.trunk.hidden._forward_hooks


@pytest.mark.parametrize("name", NAMES)
def test_passes_are_those_that_are_run(name: str) -> None:
    model, steps, batch_size = model_of(), 13, 32
    passed: list[float] = []

    def note(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        with_derivative = name == "tau_jp"  # which the output carries with it
        passed.append(len(output) * (2 if with_derivative else 1 if output.requires_grad else 1 / 3))

    model.trunk.register_forward_hook(note)
    some = penalty(name, every=4)
    bound = some.bind(model.trunk, setting(steps, tasks=1))
    for step in range(steps):
        if some.due(step):
            bound.loss(model.trunk, step)
    expected = some.passes(steps, batch_size) * batch_size
    assert sum(passed) == pytest.approx(min(expected, 40) if name == "kfac_drift" else expected)
    assert some.due_steps(steps) == [0, 4, 8, 12]
    assert penalty(name, strength=0).passes(steps, batch_size) == 0


@pytest.mark.parametrize("name", NAMES)
def test_only_training_inputs_are_read_and_no_label(name: str) -> None:
    """Its setting has no other split; a label that it looked at would be out of every range."""
    seen: list[int] = []

    def watched(source: Unlabelled) -> Unlabelled:
        def collate(indices: list[int]) -> Batch:
            seen.extend(indices)
            return source.examples.collate(indices)

        def features_of(trunk: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
            assert inputs.keys() == {"input_ids", "attention_mask"}
            return source.features(trunk, inputs)

        return Unlabelled(features_of, Examples(source.examples.lengths, collate))

    plain = setting()
    watching = Setting(
        watched(plain.own), {key: watched(value) for key, value in plain.reference.items()}, steps=24
    )
    model = model_of()
    penalty(name).bind(model.trunk, watching).loss(model.trunk, 0)
    assert set(seen) <= set(range(40))


@pytest.mark.parametrize("name", [name for name in NAMES if penalty(name).reads])
def test_without_inputs_it_says_what_to_write(name: str) -> None:
    with pytest.raises(UserError, match=r"`saft run` needs two tasks or more .* under `reference:`"):
        penalty(name).bind(model_of().trunk, setting(tasks=0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1}, "arms.a.penalty: strength: must be at least 0"),
        ({"every": 0}, "every: must be at least 1"),
        ({"ascend": "loss, both"}, "ascend: unknown value"),
        ({"stength": 1}, "did you mean 'strength'"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        penalty(name, "arms.a.penalty", **options)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"arms\.a\.penalty: name: unknown penalty 'drft'; did you mean 'drift'"
    ):
        penalty("drft", "arms.a.penalty")
