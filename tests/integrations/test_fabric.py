"""Fabric needs nothing but `saft.SAM`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from saft.errors import UserError
from saft.optim import SAM, is_replay
from tests.integrations.test_lightning_manual import OPTIONS, Loader, model_of, raw_loop, same


def backward(fabric: Fabric, model: nn.Module, batch: Any, parts: int = 1) -> Tensor:
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1]) / parts
    fabric.backward(loss)
    return loss.detach()


class Run:
    """A model and an optimizer, set up by Fabric."""

    def __init__(self, name: str = "sam", **options: Any) -> None:
        self.fabric = Fabric(accelerator="cpu", devices=1, **options)
        self.raw = model_of()
        optimizer = SAM(torch.optim.AdamW(self.raw.parameters(), lr=1e-2), name, **OPTIONS[name])
        self.model, self.optimizer = self.fabric.setup(self.raw, optimizer)
        self.schedule = StepLR(self.optimizer, 2, gamma=0.5)
        self.passes: list[bool] = []

    def backward(self, part: Any, parts: int) -> Tensor:
        self.passes.append(is_replay())
        return backward(self.fabric, self.model, part, parts)

    def closure_form(self, batch: Any) -> None:
        def closure() -> Tensor:
            self.optimizer.zero_grad()
            return torch.stack([self.backward(part, len(batch)) for part in batch]).sum()

        self.optimizer.step(closure)
        self.schedule.step()

    def context_form(self, batch: Any, clip: float | None = None) -> None:
        self.optimizer.zero_grad()
        for part in batch:
            with self.optimizer.first_pass():
                self.backward(part, len(batch))
        if self.optimizer.replays:
            with self.optimizer.perturbed():
                for part in batch:
                    with self.optimizer.replay_pass():
                        self.backward(part, len(batch))
        else:
            self.optimizer.skip_replay()
        if clip is not None:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=clip)
        self.optimizer.step()
        self.schedule.step()

    def train(self, form: str, loader: Loader, **options: Any) -> nn.Module:
        torch.manual_seed(2)
        for batch in loader:
            getattr(self, form)(batch, **options)
        return self.raw


FORMS = ["closure_form", "context_form"]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("parts", [1, 2])
def test_the_weights_are_those_of_the_raw_loop_bit_for_bit(name: str, form: str, parts: int) -> None:
    trained = Run(name).train(form, Loader(5, parts))
    assert same(trained, raw_loop(name, Loader(5, parts)))
    assert not same(trained, model_of())


@pytest.mark.parametrize("form", FORMS)
def test_one_batch_of_16_equals_2_of_8(form: str) -> None:
    def run(parts: int) -> nn.Module:
        run = Run()
        run.raw[2].p = 0.0  # type: ignore[index]
        return run.train(form, Loader(5, parts))

    for a, b in zip(run(1).parameters(), run(2).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_passes_steps_and_schedules_are_counted(form: str) -> None:
    run = Run()
    run.train(form, Loader(3, parts=2))
    assert run.passes == 3 * [False, False, True, True]
    assert run.optimizer.ascent.step == run.schedule.last_epoch == 3
    looks = Run("looksam")
    looks.train(form, Loader(3))
    assert looks.passes == [False, True, False, False, True]


def test_clipping_acts_on_the_descent_gradient() -> None:
    trained = Run().train("context_form", Loader(5), clip=0.05)
    assert same(trained, raw_loop("sam", Loader(5), clip=0.05))
    assert not same(trained, raw_loop("sam", Loader(5)))


@pytest.mark.parametrize("form", FORMS)
def test_bf16_mixed(form: str) -> None:
    trained = Run(precision="bf16-mixed").train(form, Loader(5))
    expected = raw_loop("sam", Loader(5), autocast=True)
    for a, b in zip(trained.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=5e-2, atol=5e-3)  # Fabric casts inputs and outputs as well
    assert not same(trained, model_of())


def half() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))


def test_16_mixed() -> None:
    trained = Run(plugins=[half()]).train("context_form", Loader(5))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    expected = raw_loop("sam", Loader(5), autocast=True, scaler=scaler)
    for a, b in zip(trained.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)  # Fabric casts inputs and outputs as well
    assert not same(trained, model_of())


@pytest.mark.parametrize("replay", [False, True])
def test_16_mixed_skips_the_step_when_either_pass_overflows(replay: bool) -> None:
    class Overflows(Run):
        def backward(self, part: Any, parts: int) -> Tensor:
            loss = nn.functional.cross_entropy(self.model(part[0]), part[1])
            self.fabric.backward(loss * float("inf") if is_replay() == replay else loss)
            return loss

    plugin = half()
    assert same(Overflows(plugins=[plugin]).train("context_form", Loader(1)), model_of())
    assert plugin.scaler is not None
    assert plugin.scaler.get_scale() == 2.0**9


def test_16_mixed_with_a_closure_is_refused() -> None:
    run = Run(plugins=[half()])
    with pytest.raises(
        (RuntimeError, UserError), match="Closure use is not currently supported if GradScaler"
    ):
        run.train("closure_form", Loader(1))
    assert same(run.raw, model_of())


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_a_resumed_run_equals_one_that_never_stopped(name: str, form: str, tmp_path: Path) -> None:
    def state_of(run: Run) -> dict[str, Any]:
        return {"model": run.model, "optimizer": run.optimizer, "schedule": run.schedule}

    whole, first, second = Run(name), Run(name), Run(name)
    loader = Loader(6)
    whole.train(form, loader)
    for run, batches in ((first, loader.batches[:3]), (second, loader.batches[3:])):
        if run is second:
            run.fabric.load(tmp_path / "state.ckpt", state_of(run))
        else:
            torch.manual_seed(2)
        for batch in batches:
            getattr(run, form)(batch)
        if run is first:
            run.fabric.save(tmp_path / "state.ckpt", state_of(run))
    assert same(whole.raw, second.raw)
    assert second.optimizer.ascent.step == 6


def test_davda54s_recipe_through_fabrics_wrapper() -> None:
    run, loader = Run(), Loader(4)
    run.raw[2].p = 0.0  # type: ignore[index]
    for (batch,) in loader:
        run.backward(batch, 1)
        run.optimizer.first_step(zero_grad=True)
        run.backward(batch, 1)
        run.optimizer.second_step(zero_grad=True)
        run.schedule.step()
    other = Run()
    other.raw[2].p = 0.0  # type: ignore[index]
    assert same(run.raw, other.train("context_form", loader))
