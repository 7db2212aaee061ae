from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from saft.errors import UserError
from saft.optim import SAM, kernels
from saft.optim.displacement import Displacement
from saft.optim.slots import Slot

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)


def added(weight: Tensor, direction: Tensor, scale: float) -> Displacement:
    slot = Slot(weight, weight, weight, shift=(direction, torch.tensor(scale)))
    displacement = Displacement([slot])
    displacement.apply()
    return displacement


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=0, max_size=20), FLOATS, st.sampled_from([3, 1 << 18]))
def test_what_was_added_is_taken_away_bit_for_bit(
    pairs: list[tuple[float, float]], scale: float, block: int
) -> None:
    weight, direction = (torch.tensor([pair[i] for pair in pairs], dtype=torch.float32) for i in range(2))
    before = weight.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_CPU_BLOCK", block)
        displacement = added(weight, direction, scale)
    torch.testing.assert_close(weight, before + torch.tensor(scale) * direction, equal_nan=True)
    displacement.restore()
    assert torch.equal(kernels.bits(weight), kernels.bits(before))


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced", "scalar"])
@pytest.mark.parametrize("device_path", [False, True])
def test_any_layout_on_both_paths(layout: str, device_path: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if device_path:
        monkeypatch.setattr(kernels, "_on_cpu", lambda tensor: False)
    monkeypatch.setattr(kernels, "_CPU_BLOCK", 7)
    generator = torch.Generator().manual_seed(0)

    def laid_out() -> Tensor:
        x = torch.randn(6, 8, generator=generator)
        return {"contiguous": x, "transposed": x.t(), "sliced": x[:, ::2], "scalar": x[1, 2]}[layout]

    weight, direction = laid_out(), laid_out()
    before = weight.clone()
    displacement = added(weight, direction, 0.3)
    torch.testing.assert_close(weight, before + 0.3 * direction)
    displacement.restore()
    assert torch.equal(weight, before)


@pytest.mark.parametrize(("scale", "most"), [(0.003, 0.05), (0.0, 0.0), (1e3, 1.0)])
def test_only_what_rounding_changed_is_kept(scale: float, most: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, direction = (torch.randn(100_000, generator=generator) for _ in range(2))
    before = weight.clone()
    displacement = added(weight, direction, scale)
    held = [cell.cell_contents for undo in displacement._undo for cell in undo.__closure__]  # type: ignore[attr-defined]
    n_bytes = 0
    for tensor in (t for one in held for t in (one if isinstance(one, tuple) else (one,))):
        if tensor.untyped_storage().data_ptr() not in (weight.data_ptr(), direction.data_ptr()):
            n_bytes += tensor.untyped_storage().nbytes()
    assert n_bytes <= most * 4 * weight.numel() + 8  # of the scale
    displacement.restore()
    assert torch.equal(weight, before)


def test_nothing_can_be_added_in_place_to_weights_of_low_precision() -> None:
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = SAM(
        torch.optim.SGD([weight], lr=0.1, momentum=0.9),
        "momentum_sam",
        in_place=True,
        low_precision="float32",
    )
    with pytest.raises(UserError, match="in_place"), optimizer.first_pass():
        pass
