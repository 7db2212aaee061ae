"""What every registered perturbation owes, whatever it computes."""

from __future__ import annotations

import copy
import dataclasses
import io
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from saft.errors import UserError
from saft.optim import PERTURBATIONS, SAM, Ascent, make_perturbation
from saft.optim.slots import AscentSlots, Slot

NAMES = PERTURBATIONS.names()
REPLAYING = [name for name in NAMES if PERTURBATIONS.get(name).replays]


class Model(nn.Module):
    """Norm layers, dropout, an embedding, and a branch that can be left out of the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.norm = nn.LayerNorm(6)
        self.dropout = nn.Dropout(0.2)
        self.mixer = nn.Linear(6, 6)
        self.bn = nn.BatchNorm1d(6)
        self.side = nn.Linear(6, 3)
        self.head = nn.Linear(6, 3)
        self.register_parameter("unused", nn.Parameter(torch.ones(2)))
        self.with_side = True

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.dropout(self.norm(self.embed(tokens)).mean(1))
        x = torch.tanh(self.bn(self.mixer(x)))
        return self.head(x) + (self.side(x) if self.with_side else 0)


def model_of(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model()


def batch_of(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + seed)
    return (
        torch.randint(0, 11, (16, 5), generator=generator),
        torch.randint(0, 3, (16,), generator=generator),
    )


def sam_of(name: str, model: nn.Module, **options: Any) -> SAM:
    options |= vectors_of(name, model)
    return SAM(AdamW(model.named_parameters(), lr=1e-2, weight_decay=0.1), name, model=model, **options)


def vectors_of(name: str, model: nn.Module) -> dict[str, Any]:
    """Return the task vectors of others, where the perturbation needs them."""
    if not PERTURBATIONS.get(name).needs_vectors:
        return {}
    generator = torch.Generator().manual_seed(7)
    return {
        "vectors": {key: torch.randn(w.shape, generator=generator) for key, w in model.named_parameters()}
    }


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def train(optimizer: Optimizer, model: nn.Module, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch_of(step))
            loss.backward()
            return loss

        optimizer.step(closure)


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differing(xs: dict[str, Tensor], ys: dict[str, Tensor]) -> list[str]:
    assert xs.keys() == ys.keys()
    return [name for name in xs if not torch.equal(xs[name], ys[name])]


def perturbing(optimizer: SAM) -> Any:
    """Return the context in which the weights are at w + epsilon: around the replay, or around the only pass."""
    return optimizer.perturbed() if optimizer.ascent.perturbation.replays else optimizer.first_pass()


def warmed_up(name: str, **options: Any) -> tuple[Model, SAM]:
    """Return a model after some steps, so that momentum and averages are there, about to take an ascending step."""
    model = model_of()
    optimizer = sam_of(name, model, **options)
    train(optimizer, model, range(5))
    while optimizer.ascent.rho == 0:
        train(optimizer, model, range(optimizer.ascent.step, optimizer.ascent.step + 1))
    optimizer.zero_grad()
    loss_of(model, batch_of(5)).backward()
    return model, optimizer


@pytest.fixture(params=["point", "overwrite"])
def storage(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Both ways of putting w + epsilon in place."""
    return {"fixed_storage": request.param == "overwrite"}


def test_the_registry_holds_what_is_promised() -> None:
    promised = {"sam", "asam", "asam_davda54", "asam_saft", "norm_only", "momentum_sam", "sampled_shift"}
    assert promised | {"looksam", "friendly_sam", "gsam", "smat"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_epsilon_has_the_length_rho_in_its_own_metric(name: str, storage: dict[str, Any]) -> None:
    model, optimizer = warmed_up(name, **storage)
    ascent = optimizer.ascent
    before = copies(model)
    rho = ascent.rho
    with perturbing(optimizer):
        slots = [
            Slot(p, before[name_], p.detach() - before[name_], memory=ascent._memory.get(p, {}))
            for name_, p in model.named_parameters()
            if not torch.equal(p, before[name_])
        ]
        for slot in slots:
            owner = next(n for n, p in model.named_parameters() if p is slot.parameter)
            slot.label = slot.label._replace(name=owner, layer="")
        epsilon = [slot.buffer for slot in slots]
        length = ascent.perturbation.length(AscentSlots(slots, ascent.step), epsilon)
    moved = sum(slot.weight.numel() for slot in slots)
    if name in ("sampled_shift", "smat"):  # a mean, over weights that all move
        assert moved == sum(p.numel() for p in model.parameters())
    assert moved > 0
    torch.testing.assert_close(float(length), rho, rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_back_bit_for_bit(name: str, storage: dict[str, Any]) -> None:
    model, optimizer = warmed_up(name, **storage)
    before = copies(model)
    with perturbing(optimizer):
        assert differing(copies(model), before)
        loss_of(model, batch_of(5)).backward()
    after = copies(model)
    if optimizer.ascent.perturbation.replays:
        assert not differing(after, before)  # buffers of batch norm, too
    else:  # its only pass counts
        assert not [n for n in differing(after, before) if not n.startswith("bn.")]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", NAMES)
def test_weights_come_back_after_an_exception(
    name: str, error: type[BaseException], storage: dict[str, Any]
) -> None:
    model, optimizer = warmed_up(name, **storage)
    before, random = copies(model), torch.get_rng_state()

    def interrupted() -> None:
        with perturbing(optimizer):
            assert differing(copies(model), before)
            raise error

    with pytest.raises(error):
        interrupted()
    assert not differing(copies(model), before)
    if optimizer.ascent.perturbation.replays:
        assert torch.equal(torch.get_rng_state(), random)
    optimizer.zero_grad()
    step = optimizer.ascent.step
    train(optimizer, model, range(6, 8))  # and training goes on
    assert optimizer.ascent.step == step + 2


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_vanishes_in_the_replay_leaves_no_trace(name: str, storage: dict[str, Any]) -> None:
    model, optimizer = warmed_up(name, **storage)
    before = copies(model)
    model.with_side = False
    if optimizer.ascent.perturbation.replays:
        with optimizer.perturbed():
            loss_of(model, batch_of(5)).backward()
        assert model.side.weight.grad is None
    else:
        optimizer.zero_grad()
        with optimizer.first_pass():
            loss_of(model, batch_of(5)).backward()
    assert not [n for n in differing(copies(model), before) if not n.startswith("bn.")]
    side = copies(model.side)
    optimizer.step()
    assert not differing(copies(model.side), side)


@pytest.mark.parametrize("name", NAMES)
def test_rho_zero_is_the_base_optimizer_bit_for_bit(name: str) -> None:
    model = model_of()
    train(AdamW(model.parameters(), lr=1e-2, weight_decay=0.1), model, range(7))
    options = {"rho_min": 0.0} if name == "gsam" else {}
    twin = model_of()
    optimizer = sam_of(name, twin, rho=0.0, **options)
    assert not optimizer.replays
    train(optimizer, twin, range(7))
    assert not differing(copies(model), copies(twin))


@pytest.mark.parametrize("name", REPLAYING)
def test_a_zero_gradient_leaves_the_weights_in_place(name: str, storage: dict[str, Any]) -> None:
    model = model_of()
    optimizer = SAM(
        SGD(model.named_parameters(), lr=0.1, momentum=0.9),
        name,
        model=model,
        **storage,
        **vectors_of(name, model),
    )
    loss_of(model, batch_of(0)).backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    before = copies(model)
    with optimizer.perturbed():
        assert not differing(copies(model), before)
        (0 * loss_of(model, batch_of(0))).backward()
    optimizer.step()
    assert not differing(copies(model), before)
    assert all(torch.isfinite(value).all() for value in copies(model).values())


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", REPLAYING)
def test_a_gradient_that_is_not_finite_replays_at_w_and_says_so(
    name: str, bad: float, storage: dict[str, Any]
) -> None:
    model, optimizer = warmed_up(name, **storage)
    assert model.norm.weight.grad is not None
    model.norm.weight.grad[0] = bad
    before = copies(model)
    remembered = copy.deepcopy(optimizer.state_dict()["saft"]["memory"])
    with optimizer.perturbed():
        assert not differing(copies(model), before)
        loss_of(model, batch_of(5)).backward()
    assert not all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    for index, kept in optimizer.state_dict()["saft"]["memory"].items():
        for key, value in kept.items():
            assert value.isfinite().all()
            torch.testing.assert_close(value, remembered[index][key])


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(name: str) -> None:
    model = model_of()
    optimizer = sam_of(name, model)
    train(optimizer, model, range(4))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(optimizer, model, range(4, 12))

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    twin = model_of(1)
    twin.load_state_dict(saved["model"])
    resumed = sam_of(name, twin)
    resumed.load_state_dict(saved["optimizer"])
    train(resumed, twin, range(4, 12))
    assert not differing(copies(model), copies(twin))
    assert resumed.ascent.step == 12


@pytest.mark.parametrize("name", NAMES)
def test_passes_are_counted_once_by_batch_norm_and_by_the_random_stream(name: str) -> None:
    model = model_of()
    optimizer = sam_of(name, model)
    masks: list[list[float]] = []

    def watch(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        masks[-1].append(float((output == 0).sum()) + float((output != 0).double().argmax()))

    model.dropout.register_forward_hook(watch)
    for step in range(6):
        masks.append([])
        torch.manual_seed(step)
        loss_of(copy.deepcopy(model), batch_of(step))  # what one pass draws
        expected = torch.get_rng_state()
        torch.manual_seed(step)
        masks[-1].clear()

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch_of(step))
            loss.backward()
            return loss

        optimizer.step(closure)
        assert torch.equal(torch.get_rng_state(), expected)
    assert int(model.bn.num_batches_tracked) == 6
    assert all(len(set(step)) == 1 for step in masks)


@pytest.mark.parametrize("name", NAMES)
def test_every_k_th_step_and_late_start(name: str) -> None:
    model = model_of()
    optimizer = sam_of(name, model, every=2, start=3)
    ascending = []
    for step in range(8):
        ascending.append(optimizer.ascent.rho != 0)
        train(optimizer, model, range(step, step + 1))
    assert ascending == [False, False, False, True, False, True, False, True]


@pytest.mark.parametrize(
    "options",
    [{}, {"rho": 0.0}, {"every": 3}, {"start": 4}, {"schedule": lambda step: float(step % 2)}],
    ids=["default", "rho", "every", "start", "schedule"],
)
@pytest.mark.parametrize("name", NAMES)
def test_passes_are_those_that_are_run(name: str, options: dict[str, Any]) -> None:
    model = model_of()
    optimizer = sam_of(name, model, **options)
    forwards: list[Tensor] = []
    model.head.register_forward_hook(lambda _module, _inputs, output: forwards.append(output))
    train(optimizer, model, range(11))
    assert optimizer.ascent.perturbation.passes(11) == len(forwards)
    assert optimizer.ascent.perturbation.passes(0) == 0


@pytest.mark.parametrize("name", NAMES)
def test_under_one_autocast_block_the_weights_that_were_cast_before_are_not_used(
    name: str, storage: dict[str, Any]
) -> None:
    results = []
    for whole in (True, False):  # one block around everything, or one around each forward
        model, optimizer = warmed_up(name, **storage)
        optimizer.zero_grad()
        losses = []

        def forward(model: Model = model, losses: list[Tensor] = losses) -> Tensor:
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16):
                losses.append(loss_of(model, batch_of(5)))
            return losses[-1]

        with torch.autocast("cpu", torch.bfloat16) if whole else nullcontext():
            forward()  # casts the weights, as they are
            with optimizer.first_pass():
                forward().backward()
            if optimizer.replays:
                with optimizer.perturbed():
                    forward().backward()
            forward()  # and again
        assert losses[0] == losses[-1]
        results.append([*losses, *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_weights_in_sixteen_bits_are_refused(name: str) -> None:
    model = model_of().to(torch.bfloat16)
    optimizer = sam_of(name, model)
    before = copies(model)
    with pytest.raises(UserError, match=r"float32 and compute under torch\.autocast"):
        train(optimizer, model, range(2))
    assert not [n for n in differing(copies(model), before) if not n.startswith("bn.")]


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parameters_are_left_alone(name: str) -> None:
    model = model_of()
    optimizer = sam_of(name, model)
    model.mixer.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    frozen = copies(model.mixer)
    bias = model.norm.bias.clone()
    train(optimizer, model, range(3))
    assert not differing(copies(model.mixer), frozen)
    assert torch.equal(model.norm.bias, bias)


@pytest.mark.parametrize("name", NAMES)
def test_it_works_as_a_core_over_plain_groups(name: str) -> None:
    model = model_of()
    perturbation = make_perturbation(name, **vectors_of(name, model))
    ascent = Ascent(lambda: [{"params": list(model.parameters()), "lr": 0.1}], perturbation, modules=model)
    for step in range(3):
        with ascent.first_pass():
            loss_of(model, batch_of(step)).backward()
        if ascent.replays:
            with ascent.perturbed():
                loss_of(model, batch_of(step)).backward()
        else:
            ascent.skip_replay()
        ascent.advance()
        for parameter in model.parameters():
            parameter.grad = None
        if name == "momentum_sam":
            with pytest.raises(UserError, match="needs the momentum"), ascent.first_pass():
                pass
            break
    assert ascent.step > 0


@pytest.mark.parametrize("name", NAMES)
def test_options_out_of_range_are_refused(name: str) -> None:
    for option, value in (("rho", -1.0), ("rho", float("nan")), ("every", 0), ("start", -1)):
        with pytest.raises(UserError, match=option):
            make_perturbation(name, **{option: value})
    with pytest.raises(UserError, match="schedule"):
        make_perturbation(name, schedule="cosine")


@pytest.mark.parametrize("name", NAMES)
def test_options_of_another_kind_are_refused(name: str) -> None:
    for option, value in (
        ("rho", "0.05"),
        ("rho", float("inf")),
        ("every", 1.5),
        ("start", 0.5),
        ("start", "1"),
    ):
        with pytest.raises(UserError, match=f"{option}: must be a "):
            make_perturbation(name, **{option: value})


@pytest.mark.parametrize("name", NAMES)
def test_no_option_takes_what_is_not_a_finite_number(name: str) -> None:
    kind = PERTURBATIONS.get(name)
    for field in dataclasses.fields(kind):
        if field.type in ("int", "float"):
            for value in (float("nan"), float("inf"), True, "1", [1]):
                with pytest.raises(UserError, match=f"{field.name}: must be a "):
                    make_perturbation(name, **{field.name: value})
        if field.type == "tuple[float, float]":
            for value in ((0.1, float("inf")), (0.1,), (0.1, True), "ab", 0.5):
                with pytest.raises(UserError, match=f"{field.name}: must be "):
                    make_perturbation(name, **{field.name: value})
        if field.type == "bool":
            with pytest.raises(UserError, match=f"{field.name}: must be True or False"):
                make_perturbation(name, **{field.name: "no"})
