"""Sparse: the share and the place of what is trained; all else keeps its bits under weight decay."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from saft.parametrizations.sparse import Sparse


def test_the_least_sensitive_entries_of_all_matrices_together_are_trained() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    inputs = torch.randn(7, 6)

    def losses(count: int) -> Iterator[Tensor]:
        return (trunk(x).square().sum() for x in inputs[:count])

    matrices = (trunk[0].weight, trunk[2].weight)
    fisher = torch.zeros(50)
    for loss in losses(7):
        fisher += torch.cat([g.flatten() for g in torch.autograd.grad(loss, matrices)]).square()
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    after_step = Sparse(density=0.2, examples=7).wrap(trunk, losses)
    optimizer = torch.optim.AdamW(
        [p for p in trunk.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5
    )
    for _ in range(3):
        optimizer.zero_grad()
        trunk(inputs).square().sum().backward()
        optimizer.step()
        after_step()
    after = trunk.state_dict()
    moved = torch.cat([(after[name] != before[name]).flatten() for name in ("0.weight", "2.weight")])
    assert moved.nonzero().flatten().tolist() == sorted(fisher.argsort()[:10].tolist())
    assert torch.equal(after["0.bias"], before["0.bias"])


def test_an_embedding_that_is_the_head_too_is_no_candidate() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 4), nn.Linear(4, 50, bias=False))
    trunk[2].weight = trunk[0].weight
    tokens = torch.randint(0, 9, (6, 3))

    def losses(count: int) -> Iterator[Tensor]:
        return (nn.functional.cross_entropy(trunk(x), x) for x in tokens[:count])

    Sparse(density=0.5, examples=6).wrap(trunk, losses)
    assert [name for name, p in trunk.named_parameters() if p.requires_grad] == ["1.weight"]
    for loss in losses(6):
        loss.backward()
    assert trunk[1].weight.grad.count_nonzero() == 8


def test_a_layer_that_is_not_used_is_no_candidate() -> None:
    torch.manual_seed(0)
    trunk = nn.ModuleDict({"pooler": nn.Linear(4, 4), "layer": nn.Linear(4, 4)})
    inputs = torch.randn(6, 4)

    def losses(count: int) -> Iterator[Tensor]:
        return (trunk["layer"](x).square().sum() for x in inputs[:count])

    Sparse(density=0.5, examples=6).wrap(trunk, losses)
    assert [name for name, p in trunk.named_parameters() if p.requires_grad] == ["layer.weight"]
    trunk["layer"](inputs).square().sum().backward()
    assert trunk["layer"].weight.grad.count_nonzero() == 8
