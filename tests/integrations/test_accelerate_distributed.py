"""Two replicas over gloo, in an Accelerate loop and in the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from transformers import Trainer, TrainingArguments

from saft.integrations.accelerate import SharpnessAware
from saft.integrations.transformers import SharpnessAwareMixin
from saft.optim import SAM, is_replay
from tests.two_ranks import on_two_ranks

STEPS, RHO, PARTS = 3, 0.3, 2
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo"),
]


class Model(nn.Module):
    """Returns a dictionary with the loss, and keeps the weights at which the replay runs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 2)).double()
        self.replayed: list[Tensor] = []

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        if is_replay():
            self.replayed.append(self.layers[0].weight.detach().clone())
        return {"loss": (self.layers(x.double()) - 1).square().mean()}


def examples() -> Tensor:
    return torch.randn(16 * STEPS, 4, generator=torch.Generator().manual_seed(0))


def micro_batch(step: int, rank: int, part: int) -> Tensor:
    """Return the rows that Accelerate gives a rank, which deals batches out in turn."""
    return examples()[16 * step :][4 * (2 * part + rank) :][:4]


def base_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.named_parameters(), lr=1e-2)


def of_one_process(name: str, **options: Any) -> list[Tensor]:
    """Return the weights of a single process whose batch is that of both replicas."""
    model = Model()
    optimizer = SAM(base_of(model), name, rho=RHO, model=model, **options)
    for step in range(STEPS):

        def closure(step: int = step) -> None:
            optimizer.zero_grad()
            model(examples()[16 * step :][:16])["loss"].backward()

        optimizer.step(closure)
    return weights_of(model)


def of_two_ascents(per_micro_batch: bool) -> list[Tensor]:
    """Return the weights where every replica, or micro-batch, ascends along its own gradient."""
    model = Model()
    base = base_of(model)
    groups = [[micro_batch(s, r, p) for p in range(PARTS)] for s in range(STEPS) for r in range(2)]
    if per_micro_batch:
        groups = [[batch] for group in groups for batch in group]
    each = len(groups) // STEPS
    parameters = list(model.parameters())
    for step in range(STEPS):
        total = [torch.zeros_like(p) for p in parameters]
        for group in groups[each * step :][:each]:
            batch = torch.cat(group)
            first = torch.autograd.grad(model(batch)["loss"], parameters)
            norm = torch.cat([g.flatten() for g in first]).norm()
            original = weights_of(model)
            with torch.no_grad():
                for p, g in zip(parameters, first, strict=True):
                    p.add_(g * RHO / norm)
            second = torch.autograd.grad(model(batch)["loss"], parameters)
            with torch.no_grad():
                for p, w, g, t in zip(parameters, original, second, total, strict=True):
                    p.copy_(w)
                    t.add_(g / each)
        for p, t in zip(parameters, total, strict=True):
            p.grad = t
        base.step()
    return weights_of(model)


def weights_of(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def loop(rank: int, folder: str, overflow: bool = False, **options: Any) -> None:
    """Train with Accelerate; with `overflow`, one replica's first pass has an inf, under a scaler."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=PARTS)
    assert accelerator.num_processes == 2
    inner = Model()
    model, optimizer = accelerator.prepare(inner, base_of(inner))
    sharpness_aware = SharpnessAware(accelerator, model, optimizer, rho=RHO, **options)
    reductions: list[int] = []

    # Annotated by hand: DDP looks at the types themselves, not at their names.
    def count(_: Any, bucket: Any) -> Any:
        reductions.append(bucket.index())
        future = dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
        return future.then(lambda reduced: reduced.value()[0])

    count.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[Tensor]}
    model.register_comm_hook(None, count)
    if overflow:
        accelerator.scaler = optimizer.scaler = GradScaler("cpu", init_scale=1024.0)
        optimizer.__setstate__(optimizer.__dict__)

    def compute_loss(batch: Tensor) -> Tensor:
        loss: Tensor = model(batch)["loss"]
        return loss * float("inf") if overflow and rank == 0 and not is_replay() else loss

    for step in range(STEPS):
        for part in range(PARTS):
            with accelerator.accumulate(model):
                sharpness_aware.backward(compute_loss, micro_batch(step, rank, part))
                optimizer.step()
                optimizer.zero_grad()
    twice = len(range(0, STEPS, options.get("every", 1))) if "sync_ascent" in options else 0
    assert reductions.count(0) == STEPS + twice
    save(rank, folder, inner)
    if overflow:
        assert accelerator.scaler.get_scale() == 1024 / 2**STEPS


class MyTrainer(SharpnessAwareMixin, Trainer):
    """Takes the examples in order."""

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def train(rank: int, folder: str, **options: Any) -> None:
    """Train with the Hugging Face Trainer."""
    arguments = TrainingArguments(
        f"{folder}/out",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=PARTS,
        max_steps=STEPS,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        ddp_backend="gloo",
        dataloader_pin_memory=False,
    )
    model = Model()
    trainer = MyTrainer(
        model,
        arguments,
        train_dataset=[{"x": row, "labels": 0} for row in examples()],
        optimizers=(base_of(model), None),
        sharpness_aware={"rho": RHO, **options},
    )
    trainer.train()
    assert trainer.state.global_step == STEPS
    save(rank, folder, model)


def save(rank: int, folder: str, model: Model) -> None:
    torch.save(weights_of(model), f"{folder}/{rank}.pt")
    torch.save(model.replayed, f"{folder}/replayed{rank}.pt")


TOGETHER: dict[str, dict[str, Any]] = {
    "sam": {"every": 2},
    "asam": {},
    "friendly_sam": {},
    "gsam": {},
    "looksam": {"every": 2},
}
ALONE: dict[str, dict[str, Any]] = {
    "sam": {},
    "sam-per-micro-batch": {"per_micro_batch": True},
    "sam-every-second": {"every": 2},
    "momentum_sam": {"perturbation": "momentum_sam"},
}
CASES: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
    **{f"{work.__name__}-alone-{name}": (work, ALONE[name]) for work in (loop, train) for name in ALONE},
    **{
        f"{work.__name__}-together-{name}": (
            work,
            {"perturbation": name, "sync_ascent": True, **TOGETHER[name]},
        )
        for work in (loop, train)
        for name in TOGETHER
    },
    "overflow": (loop, {"overflow": True}),
}


def _main(rank: int, folder: str) -> None:
    for case, (work, options) in CASES.items():
        work(rank, f"{folder}/{case}", **options)
        AcceleratorState._reset_state()
        GradientState._reset_state()
    dist.barrier()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run every case on two ranks, once: starting the processes is what takes the time."""
    folder = tmp_path_factory.mktemp("ranks")
    for case in CASES:
        (folder / case).mkdir()
    on_two_ranks(_main, str(folder))
    return folder


def saved(folder: Path, what: str = "") -> list[list[Tensor]]:
    return [torch.load(folder / f"{what}{rank}.pt", weights_only=True) for rank in range(2)]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-9)


def alike(zero: list[Tensor], one: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(zero, one, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_replicas_stay_alike(case: str, results: Path) -> None:
    zero, one = saved(results / case)
    assert alike(zero, one)
    assert alike(zero, weights_of(Model())) == (case == "overflow")  # no step, on either


@pytest.mark.parametrize("work", ["loop", "train"])
@pytest.mark.parametrize("name", TOGETHER)
def test_ascending_together_equals_the_single_process_result(name: str, work: str, results: Path) -> None:
    case = results / f"{work}-together-{name}"
    assert alike(*saved(case, "replayed"))
    assert_close(saved(case)[0], of_one_process(name, **TOGETHER[name]))


@pytest.mark.parametrize("work", ["loop", "train"])
def test_without_a_replay_the_first_pass_is_reduced(work: str, results: Path) -> None:
    assert_close(saved(results / f"{work}-alone-momentum_sam")[0], of_one_process("momentum_sam"))


@pytest.mark.parametrize("work", ["loop", "train"])
@pytest.mark.parametrize("per_micro_batch", [False, True])
def test_each_replica_may_ascend_by_itself(work: str, per_micro_batch: bool, results: Path) -> None:
    case = results / (f"{work}-alone-sam" + ("-per-micro-batch" if per_micro_batch else ""))
    assert not any(torch.equal(a, b) for a, b in zip(*saved(case, "replayed"), strict=True))
    assert_close(saved(case)[0], of_two_ascents(per_micro_batch))
