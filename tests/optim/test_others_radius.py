"""rho: others: the length of what merging adds, in each perturbation's own metric, at every ascent."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from saft.errors import UserError
from saft.optim import PERTURBATIONS, SAM, Ascent, make_perturbation
from saft.optim.others_radius import LikeOwn, SumOfOthers
from saft.optim.perturbations.base import COEFFICIENT
from tests.contracts.test_perturbations import batch_of, loss_of, model_of

OTHERS = [name for name in PERTURBATIONS.names() if PERTURBATIONS.get(name).replays]
OTHERS = [name for name in OTHERS if name not in ("asam_davda54", "asam_saft")]


def vectors_of(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: 0.01 * torch.randn(w.shape, generator=generator) for name, w in model.named_parameters()}


def sam_of(model: nn.Module, name: str = "sam", **options: object) -> SAM:
    return SAM(AdamW(model.named_parameters(), lr=1e-2), name, model=model, **options)


def step(optimizer: SAM, model: nn.Module, number: int) -> None:
    torch.manual_seed(number)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, batch_of(number))
        loss.backward()
        return loss

    optimizer.step(closure)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([w.detach().flatten() for w in model.parameters()])


def test_it_is_the_norm_of_the_others_sum_times_the_coefficient() -> None:
    model = model_of()
    vectors = {name: vector for name, vector in vectors_of(model).items() if not name.startswith("head")}
    moved = [vector for name, vector in vectors.items() if name != "unused"]  # which has no gradient
    optimizer = sam_of(model, rho="others", coefficient=0.3)
    optimizer.ascent.others = SumOfOthers(dict(model.named_parameters()), vectors)
    for number in range(2):
        step(optimizer, model, number)
        expected = 0.3 * math.sqrt(sum(vector.square().sum().item() for vector in moved))
        assert optimizer.ascent.rho == pytest.approx(expected, rel=1e-5)


def test_where_they_are_not_known_it_goes_by_the_own_task_vector_so_far() -> None:
    """Orthogonal vectors as long as the own one: √(K − 1) times its length; and nothing before the first step."""
    model = model_of()
    optimizer = sam_of(model, rho="others", tasks=5)
    optimizer.ascent.others = LikeOwn(model.parameters(), 5)
    base, radii = weights(model), []
    for number in range(4):
        expected = COEFFICIENT * 2 * (weights(model) - base).norm().item()
        step(optimizer, model, number)
        radii.append(optimizer.ascent.rho)
        assert radii[-1] == pytest.approx(expected, rel=1e-5, abs=1e-20)
    assert radii == sorted(radii)
    assert radii[0] < 1e-20 < radii[1]


@pytest.mark.parametrize("name", OTHERS)
def test_it_is_in_the_perturbations_own_metric(name: str) -> None:
    """A number that is the length of the shift gives the same bits, for every one of them."""
    found, given = model_of(), model_of()
    others = sam_of(found, name, rho="others", coefficient=0.5)
    others.ascent.others = SumOfOthers(dict(found.named_parameters()), vectors_of(found))
    step(others, found, 0)
    number = sam_of(given, name, rho=others.ascent.perturbation.rho)
    step(number, given, 0)
    assert torch.equal(weights(found), weights(given))


def test_in_asams_metric_it_is_the_rescaled_length() -> None:
    w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    optimizer = SAM(SGD([("weight", w)], lr=0.1), "asam", rho="others", coefficient=1.0)
    vector = torch.tensor([0.1, 0.2, -0.2])
    optimizer.ascent.others = SumOfOthers({"weight": w}, {"weight": vector})
    expected = (vector / (w.detach().abs() + 0.01)).norm().item()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert optimizer.ascent.rho == pytest.approx(expected, rel=1e-5)


def test_a_schedule_multiplies_it_and_of_a_sparse_gradient_the_rows_count() -> None:
    embedding = nn.Embedding(4, 2, sparse=True)
    vector = torch.arange(8.0).reshape(4, 2)
    ascent = Ascent(
        SGD(embedding.parameters(), lr=0.1),
        make_perturbation("sam", rho="others", coefficient=1, schedule=lambda step: 0.5),
    )
    ascent.others = SumOfOthers({"w": embedding.weight}, {"w": vector})
    with ascent.first_pass():
        embedding(torch.tensor([1, 3])).square().sum().backward()
    with ascent.perturbed():
        embedding(torch.tensor([1, 3])).square().sum().backward()
    assert ascent.rho == pytest.approx(0.5 * vector[[1, 3]].norm().item())


def test_a_copy_and_a_pickled_one_go_on_by_themselves() -> None:
    model = model_of()
    optimizer = sam_of(model, rho="others", tasks=3)
    optimizer.ascent.others = LikeOwn(model.parameters(), 3)
    step(optimizer, model, 0)
    twins = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    step(optimizer, model, 1)
    for twin, its_optimizer in twins:
        step(its_optimizer, twin, 1)
        assert torch.equal(weights(twin), weights(model))
        assert its_optimizer.ascent.rho == optimizer.ascent.rho


def test_it_takes_no_passes_of_its_own() -> None:
    assert make_perturbation("sam", rho="others").passes(10) == 20


def test_weights_that_are_not_finite_leave_the_step_to_whoever_guards_it() -> None:
    model = model_of()
    optimizer = sam_of(model, rho="others", tasks=3)
    optimizer.ascent.others = LikeOwn(model.parameters(), 3)
    model.head.weight.data.fill_(math.nan)
    step(optimizer, model, 0)
    assert not model.head.weight.isfinite().any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sam", {"rho": 0.1, "coefficient": 0.4}, "coefficient: goes with rho: others"),
        ("sam", {"coefficient": 0.4}, "coefficient: goes with rho: others"),
        ("sam", {"rho": 0.1, "tasks": 4}, "tasks: goes with rho: others; leave one of the two out"),
        ("sam", {"rho": "others", "rise": 0.1}, "rise: goes with rho: auto"),
        ("sam", {"rho": "others", "tasks": 1}, "tasks: must be above 1, but is 1"),
        ("sam", {"rho": "others", "tasks": 2.5}, "tasks: must be a whole number, but is 2.5"),
        ("sam", {"rho": "others", "coefficient": 0}, "coefficient: must be above 0, but is 0"),
        ("sam", {"rho": "others", "coefficient": "much"}, "coefficient: must be a number, but is 'much'"),
        ("asam_saft", {"rho": "others"}, "rho: cannot be others, since eta is 0, so a weight near 0"),
        ("asam", {"rho": "others", "eta": 0}, "rho: cannot be others, since eta is 0, so a weight near 0"),
        ("momentum_sam", {"rho": "others"}, "rho: cannot be others, since it has no second pass"),
        ("task_vectors", {"rho": "others"}, "rho: cannot be others, since it has no second pass"),
    ],
)
def test_what_has_no_such_radius_says_so(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_perturbation(name, **options)


def test_without_others_and_with_those_of_another_model_the_cure_is_told() -> None:
    model = model_of()
    with pytest.raises(UserError, match="rho: others: nothing is known of the other tasks"):
        step(sam_of(model, rho="others"), model, 0)
    parameters = dict(model.named_parameters())
    for vectors in ({"typo": torch.zeros(2)}, {"head.bias": torch.zeros(4)}):
        with pytest.raises(UserError, match="which the model has not; they must be those of experts"):
            SumOfOthers(parameters, vectors)
