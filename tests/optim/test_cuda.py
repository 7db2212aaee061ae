"""On a GPU: the steps of a CPU, the passes of one batch, and a host that does not wait."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from saft.optim import PERTURBATIONS, SAM

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

NAMES = PERTURBATIONS.names()
SAME_NUMBERS = [name for name in NAMES if name not in ("sampled_shift", "smat")]  # they draw on the device


def model_of(device: str, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Embedding(11, 16), nn.Flatten(), nn.LayerNorm(80), nn.Dropout(dropout), nn.Linear(80, 32)]
    # A bias right before BatchNorm has no gradient but round-off, which AdamW would make as large as any.
    return nn.Sequential(*layers, nn.Tanh(), nn.BatchNorm1d(32), nn.Linear(32, 3)).to(device)


def batch_of(step: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, 11, (16, 5), generator=generator)
    return tokens.to(device), (tokens.sum(1) % 3).to(device)


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])


def sam_of(name: str, model: nn.Module, **options: Any) -> SAM:
    base = torch.optim.AdamW(model.named_parameters(), lr=1e-2, fused=True)
    return SAM(base, name, model=model, **options)


def step(optimizer: SAM, model: nn.Module, batch: tuple[Tensor, Tensor], scaler: Any = None) -> None:
    def backward() -> None:
        loss = loss_of(model, batch)
        (loss if scaler is None else scaler.scale(loss)).backward()

    optimizer.zero_grad()
    with optimizer.first_pass():
        backward()
    if optimizer.replays:
        with optimizer.perturbed(scaler) if scaler is not None else optimizer.perturbed():
            backward()
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("fixed_storage", [False, True])
@pytest.mark.parametrize("name", SAME_NUMBERS)
def test_cuda_takes_the_steps_of_the_cpu(name: str, fixed_storage: bool) -> None:
    found = []
    for device in ("cpu", "cuda"):
        model = model_of(device)
        optimizer = sam_of(name, model, fixed_storage=fixed_storage)
        for number in range(6):
            step(optimizer, model, batch_of(number, device))
        found.append(weights_of(model))
    for key, expected in found[0].items():
        torch.testing.assert_close(found[1][key], expected, rtol=1e-3, atol=1e-4, msg=lambda m, k=key: k + m)


@pytest.mark.parametrize("fixed_storage", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_weights_on_cuda_come_back_bit_for_bit(name: str, fixed_storage: bool) -> None:
    model = model_of("cuda")
    optimizer = sam_of(name, model, fixed_storage=fixed_storage)
    for number in range(3):
        step(optimizer, model, batch_of(number, "cuda"))
    for group in optimizer.param_groups:
        group["lr"] = group["weight_decay"] = 0.0
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    step(optimizer, model, batch_of(3, "cuda"))
    assert all(torch.equal(before[key], p) for key, p in model.named_parameters())


@pytest.mark.parametrize("name", [name for name in NAMES if PERTURBATIONS.get(name).replays])
def test_both_passes_on_cuda_drop_the_same_units_and_the_stream_advances_once(name: str) -> None:
    model, dropped = model_of("cuda", dropout=0.5), []
    model[3].register_forward_hook(lambda _, inputs, output: dropped.append(output == 0))
    optimizer = sam_of(name, model)
    torch.manual_seed(1)
    after = []
    for number in range(4):
        step(optimizer, model, batch_of(number, "cuda"))
        after.append(torch.cuda.get_rng_state())
    passes = list(dropped)
    torch.manual_seed(1)
    for expected in after:
        model(batch_of(0, "cuda")[0])  # draws as often as one pass
        assert torch.equal(torch.cuda.get_rng_state(), expected)
    if len(passes) == 2 * len(after):  # looksam does not replay at every step
        assert all(torch.equal(*pair) for pair in zip(passes[::2], passes[1::2], strict=True))
    assert 0.2 < passes[0].float().mean() < 0.8
    assert not torch.equal(passes[0], passes[2])


@pytest.mark.parametrize("fixed_storage", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_host_never_waits_for_cuda_in_a_step(name: str, fixed_storage: bool) -> None:
    model = model_of("cuda", dropout=0.1)
    optimizer = sam_of(name, model, fixed_storage=fixed_storage)
    batches = [batch_of(number, "cuda") for number in range(8)]
    for batch in batches[:4]:
        step(optimizer, model, batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[4:]:
            step(optimizer, model, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("overflow", [None, "first", "second"])
@pytest.mark.parametrize("name", ["sam", "asam", "friendly_sam"])
def test_float16_on_cuda_is_scaled_and_an_overflow_skips_the_step(name: str, overflow: str | None) -> None:
    model = model_of("cuda")
    optimizer, scaler = sam_of(name, model), GradScaler("cuda", init_scale=1024.0)
    batch, passes = batch_of(0, "cuda"), iter(["first", "second"])
    before = {key: p.detach().clone() for key, p in model.named_parameters()}

    def backward() -> None:
        with torch.autocast("cuda", torch.float16):
            loss = loss_of(model, batch)
        (scaler.scale(loss) * (float("inf") if next(passes) == overflow else 1.0)).backward()

    optimizer.zero_grad()
    with optimizer.first_pass():
        backward()
    with optimizer.perturbed(scaler):
        backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == (1024.0 if overflow is None else 512.0)
    assert all(torch.equal(before[key], p) == (overflow is not None) for key, p in model.named_parameters())


def test_a_compiled_model_on_cuda_takes_the_same_steps() -> None:
    found = []
    for compiled in (False, True):
        model = model_of("cuda")
        optimizer = sam_of("sam", model)
        called = torch.compile(model) if compiled else model
        for number in range(4):
            step(optimizer, called, batch_of(number, "cuda"))
        found.append(weights_of(model))
    for key, expected in found[0].items():
        torch.testing.assert_close(found[1][key], expected, rtol=1e-3, atol=1e-4)
