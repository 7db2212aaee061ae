"""A module or state dict is filled with a merge once it is complete, or stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch import nn
from torch.testing import assert_close

import saft
from saft.errors import UserError


def test_out_is_filled_also_where_it_is_an_input_or_has_a_head(berts, tiny_model):
    base, a, b = berts
    expected = saft.merge_models(base, [a, b], "ties").state_dict()
    larger = transformers.BertForSequenceClassification.from_pretrained(tiny_model)
    head = larger.classifier.weight.clone()
    assert saft.merge_models(base, [a, b], "ties", out=larger) is larger
    assert_close(larger.bert.state_dict(), expected, rtol=0, atol=0)
    assert torch.equal(larger.classifier.weight, head)
    saft.merge_models(base, [a, b], "ties", out=base)
    assert_close(base.state_dict(), expected, rtol=0, atol=0)


class Tower(nn.Module):
    def __init__(self, value, tied):
        super().__init__()
        self.embedding, self.head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
        nn.init.constant_(self.embedding.weight, value)
        nn.init.constant_(self.head.weight, value + 1)
        if tied:
            self.head.weight = self.embedding.weight


def test_out_gets_a_tied_weight_also_where_it_is_not_tied_there():
    out = Tower(9.0, tied=False)
    saft.merge_models(Tower(1.0, tied=True), [Tower(5.0, tied=True)], "average", out=out)
    assert out.embedding.weight.eq(5).all()
    assert out.head.weight.eq(5).all()


def test_out_that_ties_what_the_merge_does_not_is_refused_and_stays():
    out, base = Tower(9.0, tied=True), Tower(1.0, tied=False)
    with pytest.raises(UserError, match=r"'embedding.weight' and 'head.weight' are one tensor, and two in"):
        saft.merge_models(base, [Tower(5.0, tied=False)], "average", out=out)
    assert out.head.weight.eq(9).all()
    alike = {name: torch.full((4, 3), 7.0) for name in base.state_dict()}
    saft.merge_models(base, [alike], "average", out=out)  # one tensor holds both
    assert out.head.weight.eq(7).all()


def test_what_has_no_entries_of_its_own_is_refused():
    state = {"weight": torch.ones(2, 3)}
    with pytest.raises(UserError, match=r"out: 'weight': is expanded.*tensor.contiguous\(\)"):
        saft.merge_models(state, [state], "average", out={"weight": torch.ones(1).expand(2, 3)})
    with pytest.raises(UserError, match=r"models.1: 'weight': is not initialized yet.*call the model once"):
        saft.merge_models(nn.Linear(3, 2), [nn.LazyLinear(2)], "average")


def test_tensors_to_fill_that_write_over_each_other_are_refused_and_stay():
    base = {"a": torch.zeros(4), "b": torch.zeros(4)}
    model = {"a": torch.ones(4), "b": torch.full((4,), 2.0)}
    whole = torch.full((7,), 9.0)
    shared = r"^out: 'a' and 'b' share a part of their memory.*tensor.clone\(\)$"
    with pytest.raises(UserError, match=shared):
        saft.merge_models(base, [model], "average", out={"a": whole[:4], "b": whole[3:]})
    square = torch.full((2, 2), 9.0)
    base, model = ({name: x.view(2, 2) for name, x in state.items()} for state in (base, model))
    with pytest.raises(UserError, match=shared):
        saft.merge_models(base, [model], "average", out={"a": square, "b": square.T})
    out = {"a": whole[:3].unfold(0, 2, 1), "b": square}
    with pytest.raises(UserError, match=r"out: 'a': is expanded.*tensor.contiguous\(\)"):
        saft.merge_models(base, [model], "average", out=out)
    assert whole.eq(9).all()
    assert square.eq(9).all()
    wide = torch.zeros(2, 4)
    saft.merge_models(base, [model], "average", out={"a": wide[:, ::2], "b": wide[:, 1::2]})
    assert wide.tolist() == [[1, 2, 1, 2], [1, 2, 1, 2]]


def test_a_tensor_to_fill_that_is_a_part_of_an_input_is_refused():
    whole = torch.zeros(6)
    base, model = {"a": whole[:4]}, {"a": torch.ones(4)}
    with pytest.raises(UserError, match=r"^out: 'a' and 'base: a' share a part of their memory"):
        saft.merge_models(base, [model], "average", out={"a": whole[2:]})
    with pytest.raises(UserError, match=r"^out: 'a' and 'models.x: a' share a part of their memory"):
        saft.merge_models(model, {"x": base}, "average", out={"a": whole[2:]})
    assert whole.eq(0).all()
    saft.merge_models(base, [model], "average", out=base)
    assert whole.tolist() == [1, 1, 1, 1, 0, 0]


def test_out_is_as_it_was_where_the_merge_fails(berts):
    base, a, b = berts
    with torch.no_grad():
        b.pooler.dense.weight[0, 0] = torch.nan
    out = copy.deepcopy(base)
    with pytest.raises(
        UserError, match=r"<BertModel in memory>: 'pooler.dense.weight' holds NaN or infinity"
    ):
        saft.merge_models(base, {"a": a, "b": b}, "average", out=out)
    assert_close(out.state_dict(), base.state_dict(), rtol=0, atol=0)
    with pytest.raises(UserError, match=r"out: 'embeddings.*' is bfloat16.*write dtype='bfloat16'"):
        saft.merge_models(base, [a], "average", out=out.bfloat16())


def test_a_module_made_in_inference_mode_is_filled():
    with torch.inference_mode():
        out = nn.Linear(2, 1)
    base, model = nn.Linear(2, 1), nn.Linear(2, 1)
    saft.merge_models(base, [model], "average", out=out)
    assert torch.equal(out.weight, saft.merge_models(base, [model], "average").weight)


def test_what_is_copied_and_does_not_fit_the_dtype_is_told():
    base = {"w": torch.zeros(2), "head": torch.tensor([1e5])}
    models = [base | {"w": torch.ones(2)}]
    with pytest.raises(UserError, match=r"'head': the base's weights do not fit float16; write with dtype: "):
        saft.merge_models(base, models, method="average", dtype="float16", exclude=["head"])
