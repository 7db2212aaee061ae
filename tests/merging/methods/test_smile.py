from __future__ import annotations

import pytest
import torch

from saft.errors import UserError
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.smile import Smile
from saft.merging.stream.block import Block
from saft.merging.stream.engine import merge_task_vectors
from saft.merging.stream.gathering import run_steps
from tests.oracles import parts as oracle


def keep(method, task_vectors):
    """What is kept of a tensor."""
    block = Block(task_vectors, torch.zeros(task_vectors.shape[1:]), "layer.weight")
    return run_steps(method.split(block.tasks, block.base.numel()), lambda function: [function(block)])(block)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6), (1, 9), (9, 1)])
@pytest.mark.parametrize("rank", [1, 3, 100])
def test_an_expert_is_the_best_approximation_of_its_rank(shape, rank):
    task_vectors = torch.randn(3, *shape, generator=torch.manual_seed(0)) * 0.1
    found = merge_task_vectors(Smile(rank=rank), task_vectors)
    for row, task_vector in zip(found, task_vectors, strict=True):
        expected = torch.from_numpy(oracle.smile_experts(task_vector.numpy(), rank))
        torch.testing.assert_close(row.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gate_rank", [1, 2, 100])
def test_a_router_holds_the_directions_that_its_task_reads_in(gate_rank):
    task_vectors = torch.randn(3, 6, 4, generator=torch.manual_seed(0))
    routers = keep(Smile(gate_rank=gate_rank), task_vectors).parts["router"]
    kept = min(gate_rank, 4)
    assert routers.shape == (3, kept, 4)
    torch.testing.assert_close(routers @ routers.mT, torch.eye(kept).expand(3, -1, -1))
    for router, task_vector in zip(routers, task_vectors, strict=True):
        torch.testing.assert_close(
            (task_vector @ router.T).square().sum(),
            torch.linalg.svdvals(task_vector)[:kept].square().sum(),
        )


def test_directions_beyond_the_rank_see_nothing():
    task_vectors = torch.zeros(2, 5, 4)
    task_vectors[1] = torch.outer(torch.arange(5.0), torch.tensor([0.0, 3.0, 4.0, 0.0]))
    routers = keep(Smile(gate_rank=3), task_vectors).parts["router"]
    assert routers[0].count_nonzero() == 0
    torch.testing.assert_close(routers[1, 0].abs(), torch.tensor([0.0, 0.6, 0.8, 0.0]))
    assert routers[1, 1:].count_nonzero() == 0


def test_linear_layers_and_their_biases_are_wanted_and_nothing_else():
    shapes = {
        "embeddings.word_embeddings.weight": (30, 8),
        "shared.weight": (30, 8),
        "wte.weight": (30, 8),
        "encoder.block.0.relative_attention_bias.weight": (32, 4),
        "encoder.0.dense.weight": (8, 4),
        "encoder.0.dense.bias": (8,),
        "encoder.0.q_proj.weight": (8, 8),
        "encoder.0.norm.weight": (8,),
        "encoder.0.norm.bias": (8,),
        "conv.weight": (8, 3, 3, 3),
        "conv.bias": (8,),
        "class_token": (1, 8),
        "lm_head.weight": (30, 8),
    }
    assert set(Smile().wanted(shapes)) == {
        "encoder.0.dense.weight",
        "encoder.0.dense.bias",
        "encoder.0.q_proj.weight",
        "lm_head.weight",
    }


def test_more_experts_for_a_token_than_there_are_is_told(checkpoints):
    base, models = checkpoints
    with pytest.raises(UserError, match=r"top_k: must be at most the number of models, 3, but is 4"):
        check(MergeConfig("smile", base, models, {"top_k": 4}))
