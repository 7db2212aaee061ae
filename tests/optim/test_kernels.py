from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from saft.optim import PERTURBATIONS, SAM, kernels
from saft.optim.slots import AscentSlots, Slot

SIZES = st.lists(st.integers(0, 5), min_size=0, max_size=3).map(tuple)


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(SIZES, min_size=1, max_size=5), st.integers(0, 99))
def test_norm_and_dot_are_over_all_tensors(shapes: list[tuple[int, ...]], seed: int) -> None:
    xs = [randn(seed + i, *shape) for i, shape in enumerate(shapes)]
    ys = [randn(seed + 50 + i, *shape) for i, shape in enumerate(shapes)]
    x, y = (torch.cat([t.flatten() for t in ts]) for ts in (xs, ys))
    torch.testing.assert_close(kernels.norm(xs), x.norm())
    torch.testing.assert_close(kernels.dot(xs, ys), (x * y).sum())


def test_dot_pairs_entries_whatever_the_memory_formats() -> None:
    x, y = (randn(seed, 2, 3, 4, 5) for seed in range(2))
    mixed = kernels.dot([x], [y.contiguous(memory_format=torch.channels_last)])
    torch.testing.assert_close(mixed, (x * y).sum())


def test_norm_of_a_long_float32_tensor_is_exact_enough() -> None:
    x = torch.rand(30_000_000, generator=torch.Generator().manual_seed(0))
    assert float(kernels.norm([x])) == pytest.approx(float(x.double().norm()), rel=2e-6)


def test_norm_of_gradients_whose_squares_overflow_is_not_finite_and_scales_to_zero() -> None:
    norm = kernels.norm([torch.full((4,), 1e30)])
    assert float(kernels.safe_ratio(0.05, norm)) in (0.0, pytest.approx(0.05 / 2e30))


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
@pytest.mark.parametrize("device_path", [False, True])
def test_ascend_in_any_layout_and_on_both_paths(
    layout: str, device_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device_path:
        monkeypatch.setattr(kernels, "_on_cpu", lambda tensor: False)
    monkeypatch.setattr(kernels, "_CPU_BLOCK", 7)

    def laid_out(seed: int) -> Tensor:
        x = randn(seed, 6, 8)
        return {"contiguous": x, "transposed": x.t(), "sliced": x[:, ::2]}[layout]

    w, b, d = (laid_out(seed) for seed in range(3))
    start = b.clone()
    scale = torch.tensor(0.25, dtype=torch.float64)
    kernels.ascend_([w], [b], scale)
    torch.testing.assert_close(b, w + 0.25 * start)
    kernels.ascend_([w], [b], scale, along=[d])
    torch.testing.assert_close(b, w + 0.25 * d)
    b[0, 0] = float("nan")
    kernels.ascend_([w], [b], torch.zeros((), dtype=torch.float64))
    assert torch.equal(b, w)
    block = next(iter(kernels.blocks([w], [b])))
    torch.testing.assert_close(
        torch.stack(kernels.magnitudes(block, 0.5)), torch.stack([x.abs() + 0.5 for x in block.weights])
    )
    assert kernels.magnitudes(block, 0.0) is block.weights


def test_blocks_cover_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_CPU_BLOCK", 5)
    weights = [randn(0, 3, 4), randn(1, 4, 3).t(), randn(2), randn(3, 0), randn(4, 2, 6)[:, ::2]]
    buffers = [torch.zeros_like(w) for w in weights]
    for block in kernels.blocks(weights, buffers):
        for w, b in zip(block.weights, block.buffers, strict=True):
            b.add_(w)
    for w, b in zip(weights, buffers, strict=True):
        assert torch.equal(w, b)


def test_several_types_go_in_one_ascent() -> None:
    ws = [randn(0, 3), randn(1, 3).float()]
    slots = AscentSlots([Slot(w, w, torch.ones_like(w)) for w in ws])
    slots.ascend(torch.tensor(0.5))
    for w, b in zip(ws, slots.buffers, strict=True):
        torch.testing.assert_close(b, w + 0.5)


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in (
            "aten::_local_scalar_dense",
            "aten::nonzero",
            "aten::equal",
            "aten::is_nonzero",
        ):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def test_no_waiting_notices() -> None:
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        torch.ones(1).item()


@pytest.mark.parametrize("fixed_storage", [False, True])
@pytest.mark.parametrize("name", PERTURBATIONS.names())
def test_the_path_of_other_devices_agrees_and_waits_for_nothing(
    name: str, fixed_storage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the accelerators' code on a CPU: same weights, and nothing in a whole step makes the host wait."""
    results = []
    for device_path in (False, True):
        monkeypatch.setattr(kernels, "_on_cpu", lambda tensor, here=not device_path: here)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2)).double()
        base = torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
        vectors = {}
        if PERTURBATIONS.get(name).needs_vectors:
            vectors["vectors"] = {key: torch.ones_like(weight) for key, weight in model.named_parameters()}
        optimizer = SAM(base, name, model=model, fixed_storage=fixed_storage, **vectors)
        inputs = randn(7, 6, 4)

        def closure(optimizer: SAM = optimizer, model: nn.Module = model, inputs: Tensor = inputs) -> None:
            optimizer.zero_grad()
            model(inputs).square().mean().backward()

        for step in range(7):
            begins = name == "friendly_sam" and step == 0  # an average, if the gradient is finite
            with NoWaiting() if device_path and not begins else nullcontext():
                optimizer.step(closure)
            assert optimizer.ascent.step == step + 1
        results.append([p.detach().clone() for p in model.parameters()])
    if name == "sampled_shift":
        return  # each path draws its numbers in its own order
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
