"""Two processes over gloo under Lightning and Fabric: replicas stay alike, and equal one process on all data."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision as FabricMixedPrecision
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from saft.errors import UserError
from saft.integrations.lightning import SharpnessAware
from saft.optim import SAM, is_replay
from tests.two_ranks import on_two_ranks

STEPS = 3
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # Lightning 2.6's own, with torch 2.13
]


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 2)).double()


class Loader:
    """Batches of which a rank sees its share."""

    def __init__(self, rank: int | None = None, count: int = 2 * STEPS) -> None:
        generator = torch.Generator().manual_seed(1)
        batches = [torch.randn(8, 4, generator=generator, dtype=torch.float64) for _ in range(count)]
        self.batches = batches if rank is None else [batch.chunk(2)[rank] for batch in batches]

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    return model(inputs).square().mean()


def base_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


class Automatic(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = model_of()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return loss_of(self.model, batch)

    def configure_optimizers(self) -> Any:
        return base_of(self)


class Shards(Automatic):
    def configure_model(self) -> None:
        for layer in (self.model[0], self.model[3]):  # type: ignore[index]
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])
        fully_shard(self.model, mesh=self.device_mesh["data_parallel"])


class Overflows(Automatic):
    """Only the first pass of rank 1, in the second step."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * float("inf") if batch_idx == 1 and self.global_rank == 1 and not is_replay() else loss


class Manual(Automatic):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        with optimizer.first_pass():
            self.manual_backward(loss_of(self.model, batch))
        with optimizer.perturbed():
            self.manual_backward(loss_of(self.model, batch))
        optimizer.step()

    def configure_optimizers(self) -> Any:
        return SAM(base_of(self), rho=0.3)


class ManualAlone(Manual):
    def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        strategy: Any = self.trainer.strategy
        optimizer.zero_grad()
        with optimizer.first_pass(), strategy.block_backward_sync():
            self.manual_backward(loss_of(self.model, batch))
        with optimizer.perturbed(reduce=dist.all_reduce):
            self.manual_backward(loss_of(self.model, batch))
        optimizer.step()


class ManualClosure(Manual):
    def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(self.model, batch)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure)


REDUCED: list[int] = []


def count(_: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    REDUCED.append(bucket.index())
    future = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True).get_future()
    return future.then(lambda reduced: reduced.value()[0])


# DDP looks at the types themselves, not at their names.
count.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[Tensor]}


class CountsReductions(L.Callback):
    def on_fit_start(self, trainer: L.Trainer, *_: Any) -> None:
        REDUCED.clear()
        trainer.strategy.model.register_comm_hook(None, count)  # type: ignore[union-attr, operator]


def fit(module: L.LightningModule, rank: int | None, *callbacks: L.Callback, **options: Any) -> list[Tensor]:
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    L.Trainer(callbacks=list(callbacks), **(defaults | options)).fit(module, Loader(rank))
    return weights(module)


def weights(module: nn.Module) -> list[Tensor]:
    return [
        (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for p in module.parameters()
    ]


# ---- what each rank does


def automatic(rank: int, folder: str, parts: int, bucket_view: bool, *, name: str, **options: Any) -> None:
    callback = SharpnessAware(name, **options)
    strategy = DDPStrategy(gradient_as_bucket_view=bucket_view)
    found = fit(
        Automatic(),
        rank,
        callback,
        CountsReductions(),
        devices=2,
        strategy=strategy,
        accumulate_grad_batches=parts,
    )
    torch.save(
        {"weights": found, "reduced": REDUCED.count(0), "steps": callback.ascent.step}, f"{folder}/{rank}"
    )


def overflow(rank: int, folder: str) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    callback = SharpnessAware(rho=0.3)
    found = fit(Overflows(), rank, callback, devices=2, strategy="ddp", plugins=[plugin])
    torch.save(
        {"weights": found, "scale": scaler.get_scale(), "steps": callback.ascent.step}, f"{folder}/{rank}"
    )


def resumed(rank: int, folder: str, **options: Any) -> None:
    common: dict[str, Any] = {"devices": 2, "strategy": "ddp", "accumulate_grad_batches": 2}

    class Saves(L.Callback):
        def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(f"{folder}/state.ckpt")

    whole = fit(Automatic(), rank, SharpnessAware(**options), max_epochs=2, **common)
    fit(Automatic(), rank, SharpnessAware(**options), Saves(), **common)
    trainer = L.Trainer(
        callbacks=[SharpnessAware(**options)],
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **common,
    )
    module = Automatic()
    trainer.fit(module, Loader(rank), ckpt_path=f"{folder}/state.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole, weights(module), strict=True))
    torch.save({"weights": weights(module)}, f"{folder}/{rank}")


def resumed_shards(rank: int, folder: str, together: bool) -> None:
    def trained(*callbacks: L.Callback, path: str | None = None, **options: Any) -> list[Tensor]:
        strategy = ModelParallelStrategy(2, 1, save_distributed_checkpoint=not together)
        quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(
            accelerator="cpu", devices=2, strategy=strategy, logger=False,
            callbacks=[SharpnessAware("friendly_sam", rho=0.3), *callbacks], **quiet, **options,
        )  # fmt: skip
        module = Shards()
        trainer.fit(module, Loader(rank), ckpt_path=path)
        return weights(module)

    class Saves(L.Callback):
        def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(f"{folder}/state.ckpt")

    whole = trained(max_epochs=2)
    trained(Saves(), max_epochs=1)
    found = trained(max_epochs=2, path=f"{folder}/state.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole, found, strict=True))
    torch.save({"weights": found}, f"{folder}/{rank}")


def sharded(rank: int, folder: str, parts: int, **options: Any) -> None:
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    found = fit(
        Shards(), rank, SharpnessAware(**options), devices=2, strategy=strategy, accumulate_grad_batches=parts
    )
    torch.save({"weights": found}, f"{folder}/{rank}")


def manual(rank: int, folder: str, module: type[Manual]) -> None:
    found = fit(module(), rank, devices=2, strategy="ddp")
    torch.save({"weights": found}, f"{folder}/{rank}")


def fabric(rank: int, folder: str, form: str) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4, enabled=form == "overflow")
    plugins: Any = [FabricMixedPrecision("16-mixed", "cpu", scaler)] if form == "overflow" else None
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", plugins=plugins)
    fabric.launch()
    raw = model_of().float() if form == "overflow" else model_of()  # autocast leaves float64 alone
    model, optimizer = fabric.setup(raw, SAM(base_of(raw), rho=0.3))
    for step, batch in enumerate(Loader(rank)):

        def backward(batch: Tensor = batch, factor: float = 1.0) -> None:
            fabric.backward(factor * loss_of(model, batch))

        if form == "closure":
            optimizer.step(lambda backward=backward: (optimizer.zero_grad(), backward()))
            continue
        overflows = form == "overflow" and (step, rank) == (1, 1)
        alone = form != "context"
        optimizer.zero_grad()
        with optimizer.first_pass(), fabric.no_backward_sync(model, enabled=alone):
            backward(factor=float("inf") if overflows else 1.0)
        with optimizer.perturbed(reduce=dist.all_reduce if alone else None):
            backward()
        optimizer.step()
    found = {"weights": weights(raw), "steps": optimizer.ascent.step, "scale": scaler.get_scale()}
    torch.save(found, f"{folder}/{rank}")


def flattened(rank: int, folder: str) -> None:
    for original in (True, False):
        model = FullyShardedDataParallel(model_of(), use_orig_params=original, device_id=torch.device("cpu"))
        with pytest.raises(UserError, match=r"FullyShardedDataParallel \(FSDP1\).*fully_shard \(FSDP2\)"):
            SAM(base_of(model))
    torch.save({"weights": []}, f"{folder}/{rank}")


SYNC = [
    ("sam", {"rho": 0.3, "sync_ascent": True}),
    ("asam", {"rho": 0.5, "sync_ascent": True}),
    ("friendly_sam", {"rho": 0.3, "sync_ascent": True}),
    ("gsam", {"rho": 0.3, "sync_ascent": True}),
    ("looksam", {"rho": 0.3, "every": 2, "sync_ascent": True}),
    ("sam", {"rho": 0.3, "every": 2, "start": 1, "sync_ascent": True}),
    ("momentum_sam", {"rho": 0.3}),
    ("sampled_shift", {"rho": 0.01}),
    ("smat", {"rho": 0.01, "every": 2}),
]
Case = tuple[Callable[..., None], tuple[Any, ...], dict[str, Any]]
CASES: dict[str, Case] = {
    f"sync-{index}-{parts}": (automatic, (parts, index % 2 == 0), {"name": name, **options})
    for index, (name, options) in enumerate(SYNC)
    for parts in (1, 2)
}
CASES |= {
    f"alone-{view}-{parts}": (automatic, (parts, view), {"name": "sam", "rho": 0.3})
    for view in (False, True)
    for parts in (1, 2)
}
CASES |= {
    f"micro-{parts}": (automatic, (parts, False), {"name": "sam", "rho": 0.3, "per_micro_batch": True})
    for parts in (1, 2)
}
CASES |= {
    "overflow": (overflow, (), {}),
    "flattened": (flattened, (), {}),
    "resumed-shards-together": (resumed_shards, (True,), {}),
    "resumed-shards": (resumed_shards, (False,), {}),
    "resumed": (resumed, (), {"perturbation": "friendly_sam", "rho": 0.3, "sync_ascent": True}),
    "manual": (manual, (Manual,), {}),
    "manual-alone": (manual, (ManualAlone,), {}),
    "manual-closure": (manual, (ManualClosure,), {}),
    "fabric": (fabric, ("context",), {}),
    "fabric-closure": (fabric, ("closure",), {}),
    "fabric-overflow": (fabric, ("overflow",), {}),
    "fabric-alone": (fabric, ("alone",), {}),
}
CASES |= {
    f"sharded-{name}-{parts}": (sharded, (parts,), {"perturbation": name, "rho": 0.3})
    for name in ("sam", "asam")
    for parts in (1, 2)
}


def _main(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=120))
    for case, (work, arguments, options) in CASES.items():
        work(rank, f"{folder}/{case}", *arguments, **options)
    dist.barrier()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run every case on two ranks, once: starting the processes is what takes the time."""
    folder = tmp_path_factory.mktemp("ranks")
    for case in CASES:
        (folder / case).mkdir()
    on_two_ranks(_main, str(folder))
    return folder


def alike(folder: Path) -> dict[str, Any]:
    zero, one = (torch.load(folder / str(rank), weights_only=True) for rank in range(2))
    assert all(torch.equal(a, b) for a, b in zip(zero["weights"], one["weights"], strict=True))
    return {**one, **zero}


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-9)


def by_hand(parts: int, groups: Callable[[list[Tensor]], list[list[Tensor]]]) -> list[Tensor]:
    """Plain SAM in which each group of inputs of a step ascends by itself, and all descend together."""
    model = model_of()
    optimizer = base_of(model)
    batches = Loader().batches
    for start in range(0, len(batches), parts):
        shares = groups(batches[start : start + parts])
        total = [torch.zeros_like(p) for p in model.parameters()]
        for share in shares:
            before = weights(model)
            gradient = torch.autograd.grad(loss_of(model, torch.cat(share)), list(model.parameters()))
            norm = torch.stack([g.norm() for g in gradient]).norm()
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradient, strict=True):
                    p.add_(0.3 * g / norm)
            replayed = torch.autograd.grad(loss_of(model, torch.cat(share)), list(model.parameters()))
            with torch.no_grad():
                for p, w in zip(model.parameters(), before, strict=True):
                    p.copy_(w)
            total = [t + g / len(shares) for t, g in zip(total, replayed, strict=True)]
        for p, t in zip(model.parameters(), total, strict=True):
            p.grad = t
        optimizer.step()
    return weights(model)


# ---- what the ranks did


@pytest.mark.parametrize("index", range(len(SYNC)))
@pytest.mark.parametrize("parts", [1, 2])
def test_synchronized_ascent_equals_one_process(index: int, parts: int, results: Path) -> None:
    name, options = SYNC[index]
    found = alike(results / f"sync-{index}-{parts}")
    callback = SharpnessAware(name, **options)
    expected = fit(Automatic(), None, callback, accumulate_grad_batches=parts)
    assert_close(found["weights"], expected)
    steps = 2 * STEPS // parts
    assert found["steps"] == steps
    replays = sum(
        callback.perturbation.replays and callback.perturbation.ascends(step) for step in range(steps)
    )
    assert found["reduced"] == steps + replays  # the first pass of a replayed step is reduced, once


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("bucket_view", [False, True])
def test_replicas_ascend_each_by_itself_and_descend_together(
    parts: int, bucket_view: bool, results: Path
) -> None:
    found = alike(results / f"alone-{bucket_view}-{parts}")
    expected = by_hand(parts, lambda batches: [[b.chunk(2)[rank] for b in batches] for rank in range(2)])
    assert_close(found["weights"], expected)
    assert found["reduced"] == 2 * STEPS // parts  # a replay alone


@pytest.mark.parametrize("parts", [1, 2])
def test_per_micro_batch_form_on_replicas(parts: int, results: Path) -> None:
    found = alike(results / f"micro-{parts}")
    assert_close(found["weights"], by_hand(parts, lambda batches: [[c] for b in batches for c in b.chunk(2)]))
    assert found["reduced"] == 2 * STEPS // parts


def test_an_overflow_in_the_ascent_of_one_replica_skips_the_step_of_all(results: Path) -> None:
    found = alike(results / "overflow")
    assert found["steps"] == 2 * STEPS - 1
    assert found["scale"] == 2.0**3


def test_a_resumed_run_of_replicas_equals_one_that_never_stopped(results: Path) -> None:
    alike(results / "resumed")  # the ranks have compared


@pytest.mark.parametrize("case", ["resumed-shards", "resumed-shards-together"])
def test_a_resumed_run_of_shards_equals_one_that_never_stopped(case: str, results: Path) -> None:
    alike(results / case)  # the ranks have compared


def test_fsdp1_is_refused_at_construction(results: Path) -> None:
    alike(results / "flattened")  # the ranks have seen to it


@pytest.mark.parametrize("case", ["manual", "manual-closure", "fabric", "fabric-closure"])
def test_manual_optimization_and_fabric_equal_one_process(case: str, results: Path) -> None:
    found = alike(results / case)
    assert_close(found["weights"], by_hand(1, lambda batches: [batches]))


@pytest.mark.parametrize("case", ["manual-alone", "fabric-alone", "fabric-overflow"])
def test_there_too_replicas_may_ascend_each_by_itself(case: str, results: Path) -> None:
    found = alike(results / case)
    if case == "fabric-overflow":
        assert (found["steps"], found["scale"]) == (2 * STEPS - 1, 2.0**3)
    else:
        expected = by_hand(1, lambda batches: [[c] for b in batches for c in b.chunk(2)])
        assert_close(found["weights"], expected)


@pytest.mark.parametrize("name", ["sam", "asam"])
@pytest.mark.parametrize("parts", [1, 2])
def test_shards_equal_one_process(name: str, parts: int, results: Path) -> None:
    found = alike(results / f"sharded-{name}-{parts}")
    callback = SharpnessAware(name, rho=0.3)
    assert_close(found["weights"], fit(Automatic(), None, callback, accumulate_grad_batches=parts))
