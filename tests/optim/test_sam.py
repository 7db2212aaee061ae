from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CyclicLR, LinearLR

from saft.errors import UserError
from saft.optim import SAM, PlainSAM, is_replay


def model_of(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def batch_of(seed: int, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 4, generator=generator), torch.randint(0, 2, (size,), generator=generator)


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def closure_of(optimizer: Optimizer, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        return loss

    return closure


def train(optimizer: Optimizer, model: nn.Module, steps: range) -> list[float]:
    return [float(optimizer.step(closure_of(optimizer, model, batch_of(i))).detach()) for i in steps]


def weights_of(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(xs: list[Tensor], ys: list[Tensor]) -> bool:
    return len(xs) == len(ys) and all(torch.equal(x, y) for x, y in zip(xs, ys, strict=True))


def test_step_returns_the_loss_at_w() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1), rho=0.5)
    expected = loss_of(model, batch_of(0)).item()
    assert train(optimizer, model, range(1)) == [expected]


def test_all_four_ways_take_the_same_step() -> None:
    def closure_form(optimizer: SAM, model: nn.Module, batch: Any) -> None:
        optimizer.step(closure_of(optimizer, model, batch))

    def context_form(optimizer: SAM, model: nn.Module, batch: Any) -> None:
        optimizer.zero_grad()
        with optimizer.first_pass():
            loss_of(model, batch).backward()
        with optimizer.perturbed():
            loss_of(model, batch).backward()
        optimizer.step()

    def bare_form(optimizer: SAM, model: nn.Module, batch: Any) -> None:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        with optimizer.perturbed():
            loss_of(model, batch).backward()
        optimizer.step()

    def davda54_form(optimizer: SAM, model: nn.Module, batch: Any) -> None:
        loss_of(model, batch).backward()
        optimizer.first_step(zero_grad=True)
        loss_of(model, batch).backward()
        optimizer.second_step(zero_grad=True)

    results = []
    for form in (closure_form, context_form, bare_form, davda54_form):
        model = model_of()
        optimizer = SAM(AdamW(model.parameters(), lr=1e-2), rho=0.1)
        for step in range(5):
            form(optimizer, model, batch_of(step))
        assert optimizer.ascent.step == 5
        results.append(weights_of(model))
    assert all(same(result, results[0]) for result in results)


def test_groups_state_and_defaults_are_the_bases_own() -> None:
    model = model_of()
    base = AdamW(model.parameters(), lr=1e-2)
    optimizer = SAM(base)
    assert optimizer.param_groups is base.param_groups
    assert optimizer.state is base.state
    assert optimizer.defaults is base.defaults
    base.load_state_dict(base.state_dict())  # torch rebinds the lists
    assert optimizer.param_groups is base.param_groups
    extra = nn.Parameter(torch.zeros(3))
    optimizer.add_param_group({"params": [extra], "lr": 0.5})
    assert base.param_groups[1]["params"][0] is extra


def test_a_parameter_group_added_later_is_perturbed() -> None:
    model, late = model_of(), nn.Parameter(torch.ones(3))
    optimizer = SAM(SGD(model.parameters(), lr=0.1), rho=0.1)
    optimizer.add_param_group({"params": [late]})
    (loss_of(model, batch_of(0)) + late.sum()).backward()
    with optimizer.perturbed():
        assert not torch.equal(late, torch.ones(3))
    assert torch.equal(late, torch.ones(3))


@pytest.mark.parametrize("on_base", [False, True])
@pytest.mark.parametrize("form", ["closure", "two steps"])
def test_schedulers_work_without_warnings(on_base: bool, form: str) -> None:
    model = model_of()
    base = SGD(model.parameters(), lr=1.0)
    optimizer = SAM(base)
    scheduler = torch.optim.lr_scheduler.StepLR(base if on_base else optimizer, step_size=1, gamma=0.5)
    for step in range(3):
        if form == "closure":
            train(optimizer, model, range(step, step + 1))
        else:
            loss_of(model, batch_of(step)).backward()
            optimizer.first_step(zero_grad=True)
            loss_of(model, batch_of(step)).backward()
            optimizer.second_step(zero_grad=True)
        scheduler.step()
    assert base.param_groups[0]["lr"] == 0.125


def test_step_hooks_fire_once_a_step() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(optimizer, model, range(2))
    loss_of(model, batch_of(0)).backward()
    optimizer.first_step(zero_grad=True)
    loss_of(model, batch_of(0)).backward()
    optimizer.second_step(zero_grad=True)
    assert calls == ["before", "after"] * 3


def test_state_dict_hooks_fire() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "note": 1})
    seen = []
    optimizer.register_load_state_dict_pre_hook(lambda _, state: seen.append(state["note"]))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == [1]


def test_state_dict_is_the_bases_and_a_small_section() -> None:
    model = model_of()
    base = AdamW(model.parameters())
    optimizer = SAM(base)
    train(optimizer, model, range(3))
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups", "saft"}
    assert state["saft"] == {"perturbation": "PlainSAM", "step": 3, "memory": {}, "rho": 0.05}
    AdamW(model.parameters()).load_state_dict(state)  # the base optimizer takes it as it is
    fresh = SAM(AdamW(model.parameters()))
    fresh.load_state_dict(base.state_dict())  # and a plain checkpoint can be taken up
    assert fresh.ascent.step == 0


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "save"])
def test_copies_train_on_bit_for_bit(how: str) -> None:
    model = model_of()
    optimizer = SAM(AdamW(model.parameters(), lr=1e-2), "asam_saft")
    train(optimizer, model, range(3))
    together = {"model": model, "optimizer": optimizer}
    if how == "deepcopy":
        twin = copy.deepcopy(together)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(together))
    else:
        file = io.BytesIO()
        torch.save(together, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert twin["optimizer"].ascent.step == 3
    train(optimizer, model, range(3, 6))
    train(twin["optimizer"], twin["model"], range(3, 6))
    assert same(weights_of(model), weights_of(twin["model"]))
    assert twin["optimizer"].ascent.step == 6


def test_step_without_replay_is_refused_but_a_null_step_is_not() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    loss_of(model, batch_of(0)).backward()
    with pytest.raises(UserError, match=r"perturbed\(\)"):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0  # as torch's distributed checkpointing does
    optimizer.step()


def test_closure_that_does_not_zero_is_refused() -> None:
    """Lightning under accumulation: earlier micro-batches are in .grad, and only the last would be replayed."""
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    loss_of(model, batch_of(0)).backward()

    def closure() -> Tensor:
        loss = loss_of(model, batch_of(1))
        loss.backward()
        return loss

    before = weights_of(model)
    with pytest.raises(UserError, match="did not zero"):
        optimizer.step(closure)
    assert same(weights_of(model), before)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_closure_that_zeroes_after_an_earlier_backward_is_fine(set_to_none: bool) -> None:
    results = []
    for stray in (True, False):
        model = model_of()
        optimizer = SAM(SGD(model.parameters(), lr=0.1))
        if stray:
            loss_of(model, batch_of(7)).backward()

        def closure(optimizer: SAM = optimizer, model: nn.Module = model) -> Tensor:
            optimizer.zero_grad(set_to_none=set_to_none)
            loss = loss_of(model, batch_of(0))
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        results.append(weights_of(model))
    assert same(*results)


def test_closure_may_accumulate_inside() -> None:
    results = []
    for parts in (1, 4):
        model = model_of().double()
        optimizer = SAM(SGD(model.parameters(), lr=0.1), rho=0.1)

        def closure(optimizer: SAM = optimizer, model: nn.Module = model, parts: int = parts) -> None:
            optimizer.zero_grad()
            inputs, labels = batch_of(0)
            for x, y in zip(inputs.double().chunk(parts), labels.chunk(parts), strict=True):
                (nn.functional.cross_entropy(model(x), y) / parts).backward()

        optimizer.step(closure)
        results.append(weights_of(model))
    for one, four in zip(*results, strict=True):
        torch.testing.assert_close(one, four)


@pytest.mark.parametrize("name", ["sam", "looksam"])
def test_a_ready_gradient_and_a_closure_that_computes_none_take_one_step(name: str) -> None:
    """Lightning hands in such a closure where the user's step() has none."""
    results = []
    for closure in (None, lambda: 7):
        model = model_of()
        optimizer = SAM(SGD(model.parameters(), lr=0.1), name, rho=0.3)
        for step in range(3):
            optimizer.zero_grad()
            with optimizer.first_pass():
                loss_of(model, batch_of(step)).backward()
            if optimizer.replays:
                with optimizer.perturbed():
                    loss_of(model, batch_of(step)).backward()
            else:
                optimizer.skip_replay()
            assert optimizer.step(closure) == (closure and 7)
        results.append(weights_of(model))
    assert same(*results)
    with optimizer.perturbed():
        loss_of(model, batch_of(0)).backward()
    before = weights_of(model)
    with pytest.raises(UserError, match="the gradient was ready, and the closure computed another"):
        optimizer.step(lambda: loss_of(model, batch_of(0)).backward())
    assert same(weights_of(model), before)


def test_a_gradient_is_ready_for_one_step_alone_even_if_a_scaler_skips_it() -> None:
    model = model_of()
    optimizer, scaler = SAM(SGD(model.parameters(), lr=0.1)), torch.amp.GradScaler("cpu")
    loss_of(model, batch_of(0)).backward()
    with optimizer.perturbed():
        scaler.scale(loss_of(model, batch_of(0)) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.ascent.step == 0
    with pytest.raises(UserError, match="without a replay of this batch"):
        optimizer.step()


def test_restore_gives_up_a_first_step() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    before = weights_of(model)
    loss_of(model, batch_of(0)).backward()
    optimizer.first_step()
    assert is_replay()
    assert not same(weights_of(model), before)
    with pytest.raises(UserError, match="perturbed"):
        optimizer.state_dict()
    with pytest.raises(UserError, match="twice"):
        optimizer.first_step()
    optimizer.restore()
    optimizer.restore()
    assert same(weights_of(model), before)
    assert not is_replay()
    with pytest.raises(UserError, match="first_step"):
        optimizer.second_step()


def test_already_the_first_step_must_replay_all_that_was_accumulated() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    before = weights_of(model)
    for i in range(2):
        loss_of(model, batch_of(i)).backward()
    optimizer.first_step(zero_grad=True)
    loss_of(model, batch_of(1)).backward()
    with pytest.raises(UserError, match="2 backward passes were accumulated but 1 replayed"):
        optimizer.second_step()
    assert same(weights_of(model), before)


def test_mistakes_in_construction_are_named() -> None:
    model = model_of()
    base = SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match="did you mean 'asam'"):
        SAM(base, "asm")
    with pytest.raises(UserError, match="no option 'etta'; did you mean 'eta'"):
        SAM(base, "asam", etta=1)
    with pytest.raises(UserError, match="no option 'adaptive'; what davda54/sam calls so is"):
        SAM(base, adaptive=True)
    with pytest.raises(UserError, match="at least 0"):
        SAM(base, rho=-1)
    with pytest.raises(UserError, match="every: must be at least 1"):
        SAM(base, every=0)
    with pytest.raises(UserError, match="not a generator"):
        SAM(model.parameters(), SGD)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="LBFGS"):
        SAM(torch.optim.LBFGS(model.parameters()))
    for neither in (None, 0.05, PlainSAM):
        with pytest.raises(UserError, match="must be a name or an instance"):
            SAM(base, neither)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="ascend twice: give it SGD itself"):
        SAM(SAM(base))
    with pytest.raises(UserError, match="unknown value 'float23'; did you mean 'float32'"):
        SAM(base, low_precision="float23")  # type: ignore[arg-type]


def test_every_and_start_say_when_a_second_pass_is_needed() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1), every=3, start=2)
    calls = []
    for step in range(9):
        count = 0

        def closure(step: int = step) -> Tensor:
            nonlocal count
            count += 1
            return closure_of(optimizer, model, batch_of(step))()

        optimizer.step(closure)
        calls.append(count)
    assert calls == [1, 1, 2, 1, 1, 2, 1, 1, 2]


def test_schedule_scales_rho() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1), rho=0.4, schedule=lambda step: 1 - step / 2)
    seen = []
    for step in range(3):
        seen.append(optimizer.ascent.rho)
        train(optimizer, model, range(step, step + 1))
    assert seen == [0.4, 0.2, 0.0]
    with pytest.raises(
        UserError, match=r"PlainSAM: schedule: must give a factor of at least 0, but .* -0\.5"
    ):
        _ = optimizer.ascent.rho


def test_a_radius_that_follows_the_learning_rate_never_exceeds_rho() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.4, schedule="learning_rate")
    scheduler = CyclicLR(optimizer, base_lr=1e-3, max_lr=1e-1, step_size_up=2)  # notes its lowest rate
    seen = []
    for step in range(3):
        seen.append(optimizer.ascent.rho)
        train(optimizer, model, range(step, step + 1))
        scheduler.step()
    assert seen == [0.4, 0.4, 0.4]


def test_a_radius_follows_the_first_group_that_learns() -> None:
    model = model_of()
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters(), "lr": 0.1}]
    optimizer = SAM(SGD(groups), rho=0.4, schedule="learning_rate")
    LinearLR(optimizer, 0.5)
    assert optimizer.ascent.rho == 0.2


class ScheduleFree(SGD):
    """Stands in for an optimizer whose weights are others in evaluation."""

    mode = "train"

    def train(self) -> None:
        self.mode = "train"

    def eval(self) -> None:
        self.mode = "eval"


def test_the_modes_of_schedule_free_optimizers_are_passed_through() -> None:
    model = model_of()
    optimizer: Any = SAM(ScheduleFree(model.parameters(), lr=0.1))
    optimizer.eval()
    assert optimizer.base.mode == "eval"
    optimizer.train()
    assert optimizer.base.mode == "train"
    plain: Any = SAM(SGD(model.parameters(), lr=0.1))
    assert not hasattr(plain, "train")  # as loops ask
    with pytest.raises(AttributeError, match="'SAM' object has no attribute 'trian'"):
        _ = plain.trian
    copy.deepcopy(optimizer).eval()


def test_modes_are_not_switched_nor_states_saved_under_a_perturbation() -> None:
    model = model_of()
    optimizer: Any = SAM(ScheduleFree(model.parameters(), lr=0.1))
    loss_of(model, batch_of(0)).backward()
    with optimizer.perturbed():
        with pytest.raises(UserError, match=r"eval\(\) inside the replay"):
            optimizer.eval()
        for save in (optimizer.state_dict, lambda: copy.deepcopy(optimizer), lambda: pickle.dumps(optimizer)):
            with pytest.raises(
                UserError, match=r"(state_dict\(\)|a copy of the optimizer) inside the replay"
            ):
                save()
        loss_of(model, batch_of(0)).backward()


def test_a_closure_that_computes_nothing_is_told_so() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    loss_of(model, batch_of(0)).backward()
    for _ in range(2):  # with gradients of an earlier backward, and with none
        with pytest.raises(UserError, match="the closure left the gradients as they were"):
            optimizer.step(lambda: None)
        optimizer.zero_grad()
