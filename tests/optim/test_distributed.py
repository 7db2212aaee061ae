"""Two processes over gloo: replicas stay alike, and shards add up to the single-process result."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from saft.optim import SAM, Ascent
from tests.two_ranks import on_two_ranks

STEPS = 3
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo"),
]


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 2)).double()


def batch_of(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 4, generator=generator, dtype=torch.float64)


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    return model(inputs).square().mean()


def optimizer_of(name: str, model: nn.Module) -> SAM:
    base = torch.optim.AdamW(model.named_parameters(), lr=1e-2)
    return SAM(base, name, rho=0.3 if name != "sampled_shift" else 0.01, model=model)


def single(name: str) -> list[Tensor]:
    model = model_of()
    optimizer = optimizer_of(name, model)
    for step in range(STEPS):
        optimizer.step(lambda step=step: (optimizer.zero_grad(), loss_of(model, batch_of(step)).backward()))
    return [p.detach() for p in model.parameters()]


def replicated(rank: int, name: str, bucket_view: bool, folder: str) -> None:
    model = DistributedDataParallel(model_of(), gradient_as_bucket_view=bucket_view)
    optimizer = optimizer_of(name, model)
    reductions = []

    # Annotated by hand: DDP looks at the types themselves, not at their names.
    def count(_: Any, bucket: Any) -> Any:
        reductions.append(bucket.index())
        future = dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
        return future.then(lambda reduced: reduced.value()[0])

    count.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[Tensor]}
    model.register_comm_hook(None, count)
    for step in range(STEPS):
        part = batch_of(step).chunk(2)[rank]
        optimizer.step(lambda part=part: (optimizer.zero_grad(), loss_of(model, part).backward()))
    passes = {"looksam": STEPS + 1, "momentum_sam": STEPS, "sampled_shift": STEPS}.get(name, 2 * STEPS)
    assert reductions.count(0) == passes
    torch.save([p.detach() for p in model.module.parameters()], f"{folder}/{rank}.pt")


def ascending_alone(rank: int, folder: str) -> None:
    """Per-replica ascent: the first pass is not reduced, the replay is."""
    model = DistributedDataParallel(model_of())
    base = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ascent = Ascent(base)
    perturbed = []
    for step in range(STEPS):
        part = batch_of(step).chunk(2)[rank]
        base.zero_grad()
        with ascent.first_pass(), model.no_sync():
            loss_of(model, part).backward()
        with ascent.perturbed():
            perturbed.append(model.module[0].weight.detach().clone())
            loss_of(model, part).backward()
        base.step()
    torch.save([p.detach() for p in model.module.parameters()], f"{folder}/{rank}.pt")
    torch.save(perturbed, f"{folder}/perturbed{rank}.pt")


def sharded(rank: int, name: str, folder: str) -> None:
    model = model_of()
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model[0], model[3]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = optimizer_of(name, model)
    for step in range(STEPS):
        part = batch_of(step).chunk(2)[rank]
        before = [p.to_local().clone() for p in model.parameters()]  # type: ignore[attr-defined]

        def closure(part: Tensor = part) -> None:
            optimizer.zero_grad()
            loss_of(model, part).backward()

        with optimizer.first_pass():
            closure()
        if optimizer.replays:
            with optimizer.perturbed():
                closure()
            after = [p.to_local() for p in model.parameters()]  # type: ignore[attr-defined]
            assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
        else:
            optimizer.skip_replay()
        optimizer.base.step()
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    remembered = optimizer.ascent._memory.by_position(list(model.parameters()))
    for position, parts in state["saft"]["memory"].items():
        for name_, share in parts.items():  # laid out as the weight is, for who saves shards
            again: Any = remembered[position][name_]
            assert share.placements == next(iter(model.parameters())).placements  # type: ignore[attr-defined]
            assert torch.equal(share.full_tensor(), again.full_tensor())
    full = [p.full_tensor().detach() for p in model.parameters()]  # type: ignore[attr-defined]
    torch.save(full, f"{folder}/{rank}.pt")


def divided_twice(rank: int, folder: str) -> None:
    """FSDP2 on top of tensor parallelism, which divides the rows of a weight by two axes of the mesh."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=120))
    for name in ("sam", "asam"):
        model = model_of()
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(output_layouts=Replicate())})
        fully_shard(model[0], mesh=mesh["data"])
        fully_shard(model, mesh=mesh["data"])
        optimizer = optimizer_of(name, model)
        for step in range(STEPS):
            part = batch_of(step).chunk(2)[rank // 2]

            def closure(part: Tensor = part, model: nn.Module = model, optimizer: SAM = optimizer) -> None:
                optimizer.zero_grad()
                loss_of(model, part).backward()

            optimizer.step(closure)
        full = [p.full_tensor().detach() for p in model.parameters()]  # type: ignore[attr-defined]
        torch.save(full, f"{folder}/{name}{rank}.pt")
    dist.barrier()


def test_shards_of_shards_equal_the_single_process_result(tmp_path: Path) -> None:
    on_two_ranks(divided_twice, str(tmp_path), ranks=4)
    for name in ("sam", "asam"):
        zero, *others = [torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True) for rank in range(4)]
        for other in others:
            assert_alike(zero, other)
        assert_close(zero, single(name))


def _main(rank: int, folder: str, cases: dict[str, tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=120))
    for case, (work, arguments) in cases.items():
        work(rank, *arguments, f"{folder}/{case}")
    dist.barrier()


METHODS = ["sam", "asam", "friendly_sam", "gsam", "looksam", "momentum_sam"]
REPLICATED = [(name, view) for name in [*METHODS, "sampled_shift"] for view in (False, True)]
SHARDED = [*METHODS, "norm_only"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run every case on two ranks, once: starting the processes is what takes the time."""
    folder = tmp_path_factory.mktemp("ranks")
    cases: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {"alone": (ascending_alone, ())}
    cases |= {f"replicated-{name}-{view}": (replicated, (name, view)) for name, view in REPLICATED}
    cases |= {f"sharded-{name}": (sharded, (name,)) for name in SHARDED}
    for case in cases:
        (folder / case).mkdir()
    on_two_ranks(_main, str(folder), cases)
    return folder


def saved(folder: Path, what: str = "") -> list[list[Tensor]]:
    return [torch.load(folder / f"{what}{rank}.pt", weights_only=True) for rank in range(2)]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-10)


def assert_alike(zero: list[Tensor], one: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(zero, one, strict=True))


@pytest.mark.parametrize(("name", "bucket_view"), REPLICATED)
def test_replicas_stay_alike_and_equal_the_single_process_result(
    name: str, bucket_view: bool, results: Path
) -> None:
    zero, one = saved(results / f"replicated-{name}-{bucket_view}")
    assert_alike(zero, one)
    assert_close(zero, single(name))


def test_ascent_per_replica_keeps_replicas_alike(results: Path) -> None:
    zero, one = saved(results / "alone")
    assert_alike(zero, one)
    there, here = saved(results / "alone", "perturbed")
    assert not any(torch.equal(a, b) for a, b in zip(there, here, strict=True))  # each ascends its own way
    with pytest.raises(AssertionError):
        assert_close(zero, single("sam"))  # which is another algorithm


@pytest.mark.parametrize("name", SHARDED)
def test_shards_equal_the_single_process_result(name: str, results: Path) -> None:
    zero, one = saved(results / f"sharded-{name}")
    assert_alike(zero, one)
    assert_close(zero, single(name))
