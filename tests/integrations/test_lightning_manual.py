"""Lightning's manual optimization needs nothing but `saft.SAM`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from saft.errors import UserError
from saft.optim import SAM, is_replay

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # Lightning 2.6's own, with torch 2.13
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "sam": {"rho": 0.3},
    "momentum_sam": {"rho": 0.3},
    "friendly_sam": {"rho": 0.3},
    "looksam": {"rho": 0.3, "every": 2},
}


def model_of(dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2))


class Loader:
    """Batches of micro-batches: one of 16 examples, or 2 of 8, as `parts` says."""

    def __init__(self, count: int, parts: int = 1) -> None:
        generator = torch.Generator().manual_seed(1)
        drawn = [
            (torch.randn(16, 4, generator=generator), torch.randint(0, 2, (16,), generator=generator))
            for _ in range(count)
        ]
        self.batches = [list(zip(x.chunk(parts), y.chunk(parts), strict=True)) for x, y in drawn]

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Closure(L.LightningModule):
    """The whole step in a closure."""

    def __init__(self, name: str = "sam", dropout: float = 0.3) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model_of(dropout)
        self.name = name
        self.passes: list[bool] = []

    def loss(self, batch: Any, parts: int) -> Tensor:
        self.passes.append(is_replay())
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1]) / parts

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = torch.zeros(())
            for part in batch:
                loss = self.loss(part, len(batch))
                self.manual_backward(loss)
                total += loss.detach()
            return total

        optimizer.step(closure)
        self.lr_schedulers().step()  # type: ignore[union-attr]

    def configure_optimizers(self) -> Any:
        base = torch.optim.AdamW(self.parameters(), lr=1e-2)
        optimizer = SAM(base, self.name, **OPTIONS[self.name])
        return [optimizer], [StepLR(optimizer, 2, gamma=0.5)]


class Contexts(Closure):
    """The two passes one after another."""

    clip: float | None = None

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        for part in batch:
            with optimizer.first_pass():
                self.manual_backward(self.loss(part, len(batch)))
        if optimizer.replays:
            with optimizer.perturbed():
                for part in batch:
                    with optimizer.replay_pass():
                        self.manual_backward(self.loss(part, len(batch)))
        else:
            optimizer.skip_replay()
        if self.clip is not None:
            self.clip_gradients(optimizer, self.clip, "norm")
        optimizer.step()
        self.lr_schedulers().step()  # type: ignore[union-attr]


class Clipping(Contexts):
    clip = 0.05


def trainer_of(**options: Any) -> L.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**(defaults | options))


def fitted(module: L.LightningModule, loader: Loader, **options: Any) -> L.LightningModule:
    torch.manual_seed(2)
    trainer_of(**options).fit(module, loader)
    return module


def raw_loop(
    name: str, loader: Loader, clip: float | None = None, autocast: bool = False, scaler: Any = None
) -> nn.Module:
    model = model_of()
    base = torch.optim.AdamW(model.parameters(), lr=1e-2)
    optimizer = SAM(base, name, **OPTIONS[name])
    schedule = StepLR(optimizer, 2, gamma=0.5)
    torch.manual_seed(2)

    def backward(part: Any, parts: int) -> None:
        dtype = torch.bfloat16 if scaler is None else torch.float16
        with torch.autocast("cpu", dtype, enabled=autocast):
            loss = nn.functional.cross_entropy(model(part[0]), part[1]) / parts
        (loss if scaler is None else scaler.scale(loss)).backward()

    for batch in loader:
        optimizer.zero_grad()
        for part in batch:
            with optimizer.first_pass():
                backward(part, len(batch))
        if optimizer.replays:
            with optimizer.perturbed():
                for part in batch:
                    with optimizer.ascent.replay_pass():
                        backward(part, len(batch))
        else:
            optimizer.skip_replay()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        schedule.step()
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("form", [Closure, Contexts])
@pytest.mark.parametrize("parts", [1, 2])
def test_the_weights_are_those_of_the_raw_loop_bit_for_bit(name: str, form: Any, parts: int) -> None:
    module = fitted(form(name), Loader(5, parts))
    assert same(module, raw_loop(name, Loader(5, parts)))
    assert not same(module, model_of())


@pytest.mark.parametrize("form", [Closure, Contexts])
def test_one_batch_of_16_equals_2_of_8(form: Any) -> None:
    one, two = (fitted(form(dropout=0.0), Loader(5, parts)) for parts in (1, 2))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", [Closure, Contexts])
def test_passes_steps_and_schedules_are_counted(form: Any) -> None:
    module, trainer = form(), trainer_of()
    trainer.fit(module, Loader(3, parts=2))
    assert module.passes == 3 * [False, False, True, True]
    assert trainer.global_step == 3
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 3
    looks = form("looksam")
    fitted(looks, Loader(3))
    assert looks.passes == [False, True, False, False, True]


def test_clipping_acts_on_the_descent_gradient() -> None:
    assert same(fitted(Clipping(), Loader(5)), raw_loop("sam", Loader(5), clip=0.05))


@pytest.mark.parametrize("form", [Closure, Contexts])
def test_bf16_mixed(form: Any) -> None:
    module = fitted(form(), Loader(5), precision="bf16-mixed")
    assert same(module, raw_loop("sam", Loader(5), autocast=True))


def half() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))


def test_16_mixed() -> None:
    module = fitted(Contexts(), Loader(5), plugins=[half()])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    assert same(module, raw_loop("sam", Loader(5), autocast=True, scaler=scaler))
    assert not same(module, model_of())


@pytest.mark.parametrize("replay", [False, True])
def test_16_mixed_skips_the_step_when_either_pass_overflows(replay: bool) -> None:
    class Overflows(Contexts):
        def loss(self, batch: Any, parts: int) -> Tensor:
            loss = super().loss(batch, parts)
            return loss * float("inf") if is_replay() == replay else loss

    plugin, module = half(), Overflows()
    fitted(module, Loader(1), plugins=[plugin])
    assert same(module, model_of())
    assert plugin.scaler is not None
    assert plugin.scaler.get_scale() == 2.0**9


def test_16_mixed_with_a_closure_is_refused() -> None:
    with pytest.raises(UserError, match=r"put the second pass inside `with optimizer\.perturbed\(\):`"):
        fitted(Closure(), Loader(1), plugins=[half()])


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("form", [Closure, Contexts])
def test_a_resumed_run_equals_one_that_never_stopped(name: str, form: Any, tmp_path: Path) -> None:
    whole = fitted(form(name, dropout=0.0), Loader(3), max_epochs=3)
    first = trainer_of(max_epochs=1)
    first.fit(form(name, dropout=0.0), Loader(3))
    first.save_checkpoint(tmp_path / "last.ckpt")
    resumed, second = form(name, dropout=0.0), trainer_of(max_epochs=3)
    second.fit(resumed, Loader(3), ckpt_path=tmp_path / "last.ckpt")
    assert same(whole, resumed)
    assert second.global_step == 9
    assert second.optimizers[0].ascent.step == 9  # type: ignore[attr-defined]


def test_in_automatic_optimization_accumulated_micro_batches_are_never_replayed_in_part() -> None:
    class Automatic(Closure):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = True

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # type: ignore[override]
            return self.loss(batch[0], 1)

        def configure_optimizers(self) -> Any:
            (optimizer,), (schedule,) = super().configure_optimizers()
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    assert same(fitted(Automatic(), Loader(5)), raw_loop("sam", Loader(5)))  # one micro-batch: it works
    with pytest.raises(UserError, match="with the last micro-batch only"):
        fitted(Automatic(), Loader(2), accumulate_grad_batches=2)


def test_davda54s_recipe_through_lightnings_wrapper() -> None:
    class TwoLines(Closure):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            self.manual_backward(self.loss(batch[0], 1))
            optimizer.first_step(zero_grad=True)
            self.manual_backward(self.loss(batch[0], 1))
            optimizer.second_step(zero_grad=True)
            self.lr_schedulers().step()  # type: ignore[union-attr]

    module = TwoLines(dropout=0.0)
    trainer = trainer_of()
    trainer.fit(module, Loader(5))
    assert same(module, fitted(Contexts(dropout=0.0), Loader(5)))
    assert trainer.global_step == 5


def test_a_plain_step_is_refused_in_words_that_the_user_wrote() -> None:
    class Plain(Closure):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch[0], 1))
            optimizer.step()

    with pytest.raises(UserError, match=r"without a replay.*`with optimizer\.perturbed\(\):`") as raised:
        fitted(Plain(), Loader(1))
    assert "the closure" not in str(raised.value)
