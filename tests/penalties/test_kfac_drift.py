"""K-FAC drift: tr(B dW A dW') of each layer, from inputs or from files."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from saft.errors import UserError
from saft.penalties.kfac_drift import KFACDrift
from saft.penalties.kronecker import KroneckerFactors, summarize
from tests.contracts.test_penalties import gradients, model_of, moved, setting


def test_it_is_the_trace_and_its_gradient() -> None:
    around, model = setting(), model_of()
    base = copy.deepcopy(model)
    bound = KFACDrift(strength=3.0, every=2, examples=10).bind(model.trunk, around)
    moved(model)
    factors = [summarize(base.trunk, source, 10) for source in around.reference.values()]

    def form(named: dict[str, torch.Tensor]) -> torch.Tensor:
        total = torch.zeros(())
        for name in factors[0].layers:
            a = sum(f.layers[name].inputs for f in factors) / 2
            b = sum(f.layers[name].outputs for f in factors) / 2
            layer, old = model.trunk.get_submodule(name), base.trunk.get_submodule(name)
            delta = layer.weight - old.weight.detach()
            if isinstance(layer, nn.Embedding):
                delta, a = delta.T, torch.diag(a)
            elif layer.bias is not None:
                delta = torch.cat([delta, (layer.bias - old.bias.detach())[:, None]], 1)
            total = total + torch.trace(b @ delta @ a @ delta.T)
        return 2 * 3.0 * total

    expected = form(dict(model.named_parameters()))
    loss = bound.loss(model.trunk, 0)
    torch.testing.assert_close(loss, expected)
    ours, theirs = gradients(model, loss), gradients(model, expected)
    assert ours.keys() == theirs.keys()
    assert "trunk.norm.weight" not in ours
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


def test_summaries_in_files_stand_for_the_inputs(tmp_path: Path) -> None:
    around, model = setting(), model_of()
    files = []
    for name, source in around.reference.items():
        files.append(str(tmp_path / f"{name}.safetensors"))
        summarize(model.trunk, source, 10).write(Path(files[-1]))
    from_files = KFACDrift(summaries=files)
    assert from_files.reads is None
    assert from_files.passes(100, 8) == 0
    bound = from_files.bind(model.trunk, setting(tasks=0))
    direct = KFACDrift(examples=10).bind(model.trunk, around)
    moved(model)
    assert bound.loss(model.trunk, 0).item() == direct.loss(model.trunk, 0).item()


def test_what_is_kept_for_other_arms_does_not_lack_the_layers_that_the_first_of_them_froze(
    tmp_path: Path,
) -> None:
    around, penalty = setting(cache=tmp_path), KFACDrift(examples=10)
    frozen, model = model_of(), model_of()
    frozen.trunk.embed.requires_grad_(False)
    frozen.trunk.norm.requires_grad_(False)
    penalty.bind(frozen.trunk, around)
    bound, alone = penalty.bind(model.trunk, around), penalty.bind(model.trunk, setting())
    moved(model)
    assert bound.loss(model.trunk, 0).item() == alone.loss(model.trunk, 0).item()


def test_factors_of_another_model_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    factors = summarize(model_of().trunk, setting().own, 5)
    factors.write(file)
    with pytest.raises(UserError, match=r"a\.safetensors: was made at a base with other weights"):
        KFACDrift(summaries=[str(file)]).bind(model_of(1).trunk, setting())
    dataclasses.replace(factors, base="").write(file)
    other = model_of()
    other.trunk.hidden = nn.Linear(6, 9)
    with pytest.raises(UserError, match="summaries: layer 'hidden' has another shape in this model"):
        KFACDrift(summaries=[str(file)]).bind(other.trunk, setting())
    del other.trunk.hidden
    with pytest.raises(UserError, match="summaries: layer 'hidden' is not in this model"):
        KFACDrift(summaries=[str(file)]).bind(other.trunk, setting())


@pytest.mark.parametrize("linear_above", [True, False])
def test_where_nothing_that_pays_is_trained_it_is_refused(linear_above: bool) -> None:
    model = model_of()
    model.trunk.requires_grad_(False)
    model.trunk.norm.requires_grad_()
    if not linear_above:  # no gradient comes to a linear layer at all
        model.trunk.out, model.trunk.hidden = model.trunk.norm, nn.Identity()
    with pytest.raises(UserError, match="kfac_drift: no linear layer or embedding is trained here"):
        KFACDrift(examples=10).bind(model.trunk, setting())


def test_a_file_that_holds_something_else_is_told(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match="there is no such file"):
        KroneckerFactors.read(file)
    with pytest.raises(
        UserError, match=r"^arms\.a\.penalty: summaries: .*a\.safetensors: there is no such file"
    ):
        KFACDrift(summaries=[str(file)]).check_tasks({}, "arms.a.penalty")
    save_file({"weight": torch.ones(2)}, file)
    with pytest.raises(UserError, match=r"holds no Kronecker factors, but \['weight'\]"):
        KroneckerFactors.read(file)
    save_file({"a.inputs": torch.ones(2, 2), "a.outputs": torch.tensor([[float("nan")]])}, file)
    with pytest.raises(UserError, match=r"tensor a\.outputs holds NaN"):
        KroneckerFactors.read(file)
    file.write_bytes(b"no")
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        KroneckerFactors.read(file)
