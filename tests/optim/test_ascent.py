from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from saft.errors import UserError
from saft.optim import SAM, Ascent, AscentOptions, is_replay, make_perturbation
from tests.oracles import optim as oracle


def model_of(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2)).double()


def batch_of(seed: int, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 2, (size,), generator=generator)


def split(batch: tuple[Tensor, Tensor], parts: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(batch[0].chunk(parts), batch[1].chunk(parts), strict=True))


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def weights_of(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(xs: list[Tensor], ys: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(xs, ys, strict=True))


def whole_batch_step(optimizer: Any, ascent: Ascent, model: nn.Module, parts: list[Any]) -> None:
    optimizer.zero_grad()
    for part in parts:
        with ascent.first_pass():
            (loss_of(model, part) / len(parts)).backward()
    with ascent.perturbed():
        for part in parts:
            with ascent.replay_pass():
                (loss_of(model, part) / len(parts)).backward()
    optimizer.step()


def test_whole_batch_form_does_not_depend_on_the_number_of_micro_batches() -> None:
    results = []
    for parts in (1, 2, 8):
        model = model_of()
        optimizer = SGD(model.parameters(), lr=0.1)
        ascent = Ascent(optimizer)
        for step in range(3):
            whole_batch_step(optimizer, ascent, model, split(batch_of(step), parts))
        results.append(weights_of(model))
    for result in results[1:]:
        for found, expected in zip(result, results[0], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_every_micro_batch_is_replayed_with_its_own_dropout_masks() -> None:
    model = model_of(dropout=0.5)
    optimizer = SGD(model.parameters(), lr=0.1)
    masks: list[Tensor] = []
    model[2].register_forward_hook(lambda m, i, o: masks.append(o == 0))
    whole_batch_step(optimizer, Ascent(optimizer), model, split(batch_of(0), 4))
    after = torch.get_rng_state()
    first, replayed = masks[:4], masks[4:]
    assert same(first, replayed)
    assert not torch.equal(first[0], first[1])
    torch.manual_seed(0)
    model_of(dropout=0.5)
    for part in split(batch_of(0), 4):
        loss_of(model, part)
    assert torch.equal(torch.get_rng_state(), after)  # the stream was used once


def test_per_micro_batch_form_is_m_sharpness() -> None:
    """The descent gradient is the mean of the micro-batches' gradients, each at its own w + epsilon."""
    model = model_of()
    optimizer = SGD(model.parameters(), lr=0.1)
    ascent = Ascent(optimizer, options=AscentOptions(per_micro_batch=True))
    parts = split(batch_of(0), 4)
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for part in parts:
        g = oracle.gradient(model, lambda m, part=part: loss_of(m, part))
        epsilon = oracle.sam(weights_of(model), g, 0.05)
        at = oracle.gradient_at(model, lambda m, part=part: loss_of(m, part) / 4, epsilon)
        expected = [e + a for e, a in zip(expected, at, strict=True)]
    for part in parts:
        with ascent.first_pass():
            (loss_of(model, part) / 4).backward()
        with ascent.perturbed():
            (loss_of(model, part) / 4).backward()
    for parameter, e in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, e)
    optimizer.step()
    assert ascent.step == 1


def test_per_micro_batch_form_keeps_what_was_accumulated_when_a_pass_fails() -> None:
    model = model_of()
    ascent = Ascent(SGD(model.parameters(), lr=0.1), options=AscentOptions(per_micro_batch=True))
    with ascent.first_pass():
        loss_of(model, batch_of(0)).backward()
    with ascent.perturbed():
        loss_of(model, batch_of(0)).backward()
    before = [p.grad.clone() for p in model.parameters()]
    with pytest.raises(MemoryError), ascent.first_pass():
        raise MemoryError
    assert same([p.grad for p in model.parameters()], before)
    with ascent.first_pass():  # and it can be tried again
        loss_of(model, batch_of(1)).backward()
    with ascent.perturbed():
        loss_of(model, batch_of(1)).backward()
    assert not same([p.grad for p in model.parameters()], before)


def test_per_micro_batch_form_forgets_what_is_cleared_between_forward_and_backward() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1), per_micro_batch=True)
    gradients = []
    for _ in range(2):  # trainers clear after the forward; here the gradient of the first step would stay
        with optimizer.first_pass():
            loss = loss_of(model, batch_of(0))
            optimizer.zero_grad()
            loss.backward()
        with optimizer.perturbed():
            loss_of(model, batch_of(0)).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert same(*gradients)


@pytest.mark.parametrize("name", ["gsam", "looksam"])
def test_methods_that_combine_gradients_have_no_form_per_micro_batch(name: str) -> None:
    with pytest.raises(UserError, match="whole batch"):
        Ascent(SGD(model_of().parameters(), lr=0.1), name, options=AscentOptions(per_micro_batch=True))


def test_replaying_the_last_micro_batch_alone_is_refused() -> None:
    model = model_of()
    optimizer = SGD(model.parameters(), lr=0.1)
    ascent = Ascent(optimizer)
    before, parts = weights_of(model), split(batch_of(0), 4)
    for part in parts:
        with ascent.first_pass():
            loss_of(model, part).backward()
    with (
        pytest.raises(UserError, match="4 micro-batches were accumulated but 0 replayed"),
        ascent.perturbed(),
    ):
        loss_of(model, parts[-1]).backward()
    assert same(weights_of(model), before)


def test_replaying_the_last_micro_batch_alone_is_refused_without_marks_too() -> None:
    """Without first_pass() the passes are counted by a hook, which sits on a used parameter from the first replay."""
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    parts = split(batch_of(0), 4)
    for _ in range(2):  # one honest step
        optimizer.zero_grad()
        loss_of(model, parts[0]).backward()
        optimizer.first_step(zero_grad=True)
        loss_of(model, parts[0]).backward()
        optimizer.second_step(zero_grad=True)
    before = weights_of(model)
    for part in parts:
        loss_of(model, part).backward()
    optimizer.first_step(zero_grad=True)
    loss_of(model, parts[-1]).backward()
    with pytest.raises(UserError, match="4 backward passes were accumulated but 1 replayed"):
        optimizer.second_step(zero_grad=True)
    assert same(weights_of(model), before)


def test_more_replays_than_first_passes_are_refused() -> None:
    model = model_of()
    ascent = Ascent(SGD(model.parameters(), lr=0.1))

    def twice() -> None:
        with ascent.first_pass():
            loss_of(model, batch_of(0)).backward()
        with ascent.perturbed():
            for _ in range(2):
                with ascent.replay_pass():
                    loss_of(model, batch_of(0)).backward()

    with pytest.raises(UserError, match="only 1 first"):
        twice()


@pytest.mark.parametrize("whose", ["optimizer", "model"])
def test_a_batch_that_was_given_up_is_forgotten_with_its_gradients(whose: str) -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    with optimizer.first_pass():
        loss_of(model, batch_of(0)).backward()
    (optimizer if whose == "optimizer" else model).zero_grad()  # a bad batch
    with optimizer.first_pass():
        loss_of(model, batch_of(1)).backward()
    with optimizer.perturbed():
        loss_of(model, batch_of(1)).backward()
    optimizer.step()


def test_two_losses_of_one_batch_need_the_mark() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    for _ in range(2):
        optimizer.zero_grad()
        with optimizer.first_pass():
            loss_of(model, batch_of(0)).backward()
            loss_of(model, batch_of(1)).backward()
        with optimizer.perturbed():
            (loss_of(model, batch_of(0)) + loss_of(model, batch_of(1))).backward()
        optimizer.step()
    assert optimizer.ascent.step == 2


def test_is_replay_is_true_in_the_replay_alone() -> None:
    model = model_of()
    seen = []
    model.register_forward_hook(lambda *_: seen.append(is_replay()))
    optimizer = SAM(SGD(model.parameters(), lr=0.1), every=2)
    for _ in range(2):
        optimizer.step(lambda: (optimizer.zero_grad(), loss_of(model, batch_of(0)).backward()))
    assert seen == [False, True, False]


def test_phases_that_do_not_fit_are_named() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    with pytest.raises(UserError, match="no gradient to ascend along"), optimizer.perturbed():
        pass
    with pytest.raises(UserError, match="belongs inside"), optimizer.replay_pass():
        pass
    loss_of(model, batch_of(0)).backward()
    with optimizer.perturbed():
        for wrong in (optimizer.first_pass(), optimizer.perturbed()):
            with pytest.raises(UserError, match="inside the replay"):
                wrong.__enter__()
        with pytest.raises(UserError, match="inside the replay"):
            optimizer.base.step()
        loss_of(model, batch_of(0)).backward()
    with optimizer.first_pass(), pytest.raises(UserError, match="inside the first pass"):
        optimizer.perturbed().__enter__()


def test_one_pass_methods_need_the_mark() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1, momentum=0.9), "momentum_sam")
    loss_of(model, batch_of(0)).backward()
    with pytest.raises(UserError, match=r"first_pass\(\)"):
        optimizer.step()


@pytest.mark.parametrize("name", ["sam", "looksam", "momentum_sam"])
def test_an_unconditional_second_pass_is_wasteful_but_right(name: str) -> None:
    results = []
    for unconditional in (False, True):
        model = model_of()
        base = SGD(model.parameters(), lr=0.1, momentum=0.9)
        ascent = Ascent(base, name if name != "sam" else SAM(base, every=2).ascent.perturbation)
        for step in range(7):
            base.zero_grad()
            with ascent.first_pass():
                loss_of(model, batch_of(step)).backward()
            if ascent.replays or unconditional:
                with ascent.perturbed():
                    loss_of(model, batch_of(step)).backward()
            else:
                ascent.skip_replay()
            base.step()
        results.append(weights_of(model))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_a_graph_of_the_perturbed_weights_cannot_be_used_after_them() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    loss_of(model, batch_of(0)).backward()
    with optimizer.perturbed():
        loss = loss_of(model, batch_of(0))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_gradient_that_somebody_keeps_a_view_of_is_not_overwritten() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    loss_of(model, batch_of(0)).backward()
    views = [p.grad.view(-1) for p in model.parameters()]
    values = [view.clone() for view in views]
    with optimizer.perturbed():
        loss_of(model, batch_of(0)).backward()
    assert same(views, values)


def test_weights_that_share_memory_are_perturbed_where_they_are() -> None:
    """A view that is no parameter, as of tied or flattened weights, must see w + epsilon as well."""
    model = model_of()
    view = model[0].weight.detach().t()
    before = view.clone()
    optimizer = SAM(SGD(model.parameters(), lr=0.1), rho=0.5)
    loss_of(model, batch_of(0)).backward()
    with optimizer.perturbed():
        assert torch.equal(view, model[0].weight.t())
        assert not torch.equal(view, before)
        loss_of(model, batch_of(0)).backward()
    assert torch.equal(view, before)


def test_two_parameters_of_one_memory_come_back() -> None:
    memory = torch.randn(6)
    before = memory.clone()
    x, y = nn.Parameter(memory), nn.Parameter(memory)
    optimizer = SAM(SGD([x, y], lr=0.1), rho=0.5)
    (x.sin().sum() + y.square().sum()).backward()
    with optimizer.perturbed():
        assert not torch.equal(memory, before)
        (x.sin().sum() + y.square().sum()).backward()
    assert torch.equal(memory, before)


def test_weights_stay_where_they_are_and_are_never_written() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    pointers = [p.data_ptr() for p in model.parameters()]
    loss_of(model, batch_of(0)).backward()
    gradients = [p.grad.data_ptr() for p in model.parameters()]
    with optimizer.perturbed():
        assert [p.data_ptr() for p in model.parameters()] == gradients  # w + epsilon is in the dead gradient
        loss_of(model, batch_of(0)).backward()
    assert [p.data_ptr() for p in model.parameters()] == pointers


def test_fixed_storage_never_moves_a_parameter() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1), fixed_storage=True)
    pointers = [p.data_ptr() for p in model.parameters()]
    before = weights_of(model)
    loss_of(model, batch_of(0)).backward()
    with optimizer.perturbed():
        assert [p.data_ptr() for p in model.parameters()] == pointers
        assert not same(weights_of(model), before)
        loss_of(model, batch_of(0)).backward()
    assert same(weights_of(model), before)


def test_tied_weights_are_perturbed_once() -> None:
    embed = nn.Embedding(5, 3).double()
    head = nn.Linear(3, 5, bias=False).double()
    head.weight = embed.weight
    model = nn.Sequential(embed, head)
    optimizer = SAM(SGD(model.parameters(), lr=0.1), rho=0.7)
    tokens = torch.tensor([0, 1, 2, 3])
    nn.functional.cross_entropy(model(tokens), tokens).backward()
    before = embed.weight.detach().clone()
    with optimizer.perturbed():
        assert head.weight is embed.weight
        assert float((embed.weight - before).norm().detach()) == pytest.approx(0.7)
        nn.functional.cross_entropy(model(tokens), tokens).backward()
    assert torch.equal(embed.weight, before)


@pytest.mark.parametrize("name", ["sam", "asam_saft"])
def test_sparse_gradients_move_the_touched_rows_alone(name: str) -> None:
    results = []
    tokens = torch.tensor([1, 3, 3, 1, 4])
    for sparse in (False, True):
        torch.manual_seed(0)
        embed = nn.Embedding(7, 3, sparse=sparse).double()
        head = nn.Linear(3, 2).double()
        optimizer = SAM(SGD([*embed.parameters(), *head.parameters()], lr=0.1), name, rho=0.5)
        for _ in range(3):
            before = embed.weight.detach().clone()
            optimizer.zero_grad()
            head(embed(tokens)).square().sum().backward()
            with optimizer.perturbed():
                moved = (embed.weight != before).any(1)
                assert moved.tolist() == [False, True, False, True, True, False, False]
                head(embed(tokens)).square().sum().backward()
            assert torch.equal(embed.weight, before)
            optimizer.step()
        results.append(weights_of(embed))
    torch.testing.assert_close(results[0], results[1])


def test_sparse_gradients_are_refused_where_gradients_are_combined() -> None:
    embed = nn.Embedding(7, 3, sparse=True)
    optimizer = SAM(SGD(embed.parameters(), lr=0.1), "gsam")
    embed(torch.tensor([1])).sum().backward()
    with pytest.raises(UserError, match="sparse gradient"), optimizer.perturbed():
        pass
    momentum = SAM(SGD(embed.parameters(), lr=0.1, momentum=0.9), "momentum_sam")
    with momentum.first_pass():  # there is no momentum yet
        embed(torch.tensor([1])).sum().backward()
    momentum.step()
    with pytest.raises(UserError, match="a sparse momentum"), momentum.first_pass():
        pass


@pytest.mark.parametrize("name", ["sam", "asam_saft", "gsam"])
def test_complex_parameters_are_pairs_of_real_ones(name: str) -> None:
    w = nn.Parameter(torch.randn(4, dtype=torch.complex128))
    pair = nn.Parameter(torch.view_as_real(w.detach()).clone())
    losses = (
        lambda: (w * w.conj()).real.square().sum(),
        lambda: pair.square().sum(-1).square().sum(),
    )
    for parameter, loss in ((w, losses[0]), (pair, losses[1])):
        optimizer = SAM(SGD([parameter], lr=0.01), name, rho=0.3)
        for _ in range(3):
            optimizer.step(lambda loss=loss, optimizer=optimizer: (optimizer.zero_grad(), loss().backward()))
    torch.testing.assert_close(torch.view_as_real(w), pair)


@pytest.mark.parametrize(("name", "power"), [("sampled_shift", 1), ("smat", 2)])
def test_the_mean_over_complex_parameters_is_over_both_parts(name: str, power: int) -> None:
    w = nn.Parameter(torch.zeros(50, dtype=torch.complex64))
    options = {"drop": 0.0} if name == "smat" else {"n_models": 1, "coefficients": (2.0, 2.0)}
    ascent = Ascent(SGD([w], lr=0.1), make_perturbation(name, rho=1e-3, **options))
    with ascent.first_pass():
        entries = torch.view_as_real(w.detach())
        assert float(entries.abs().pow(power).mean()) ** (1 / power) == pytest.approx(1e-3, rel=1e-4)


def test_memory_formats_other_than_contiguous() -> None:
    conv = nn.Conv2d(4, 3, 3).double().to(memory_format=torch.channels_last)
    plain = nn.Conv2d(4, 3, 3).double()
    plain.load_state_dict(conv.state_dict())
    images = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    for module in (conv, plain):
        optimizer = SAM(SGD(module.named_parameters(), lr=0.1), "asam", rho=0.5)
        for _ in range(3):
            optimizer.step(
                lambda m=module, o=optimizer: (o.zero_grad(), m(images).square().mean().backward())
            )
    torch.testing.assert_close(conv.weight, plain.weight)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_low_precision_on_float32_copies(stored: torch.dtype) -> None:
    """The replay computes at float32(w) + epsilon exactly; the weights stay as they are stored."""
    torch.manual_seed(0)
    model = nn.Linear(64, 8).to(stored)
    before = weights_of(model)
    optimizer = SAM(SGD(model.parameters(), lr=0.1), rho=0.01, low_precision="float32")
    inputs = torch.randn(4, 64)
    model(inputs.to(stored)).square().sum().backward()
    gradients = [p.grad.float() for p in model.parameters()]
    expected = oracle.sam(before, gradients, 0.01)
    with optimizer.perturbed():
        for parameter, w, e in zip(model.parameters(), before, expected, strict=True):
            assert parameter.dtype == torch.float32
            torch.testing.assert_close(parameter.detach() - w.float(), e, rtol=1e-3, atol=1e-6)
        model(inputs).square().sum().backward()
    assert same(weights_of(model), before)
    assert all(p.dtype == stored and p.grad.dtype == stored for p in model.parameters())
    optimizer.step()
    model(inputs.to(stored)).sum().backward()  # autograd has followed the change of type
    assert model.weight.grad.dtype == stored


def test_low_precision_needs_movable_storage() -> None:
    model = nn.Linear(4, 2).to(torch.bfloat16)
    optimizer = SAM(SGD(model.parameters(), lr=0.1), low_precision="float32", fixed_storage=True)
    model(torch.ones(1, 4, dtype=torch.bfloat16)).sum().backward()
    with pytest.raises(UserError, match="does not allow"), optimizer.perturbed():
        pass


def test_autocast_over_float32_weights_is_fine() -> None:
    model = nn.Linear(64, 8)
    optimizer = SAM(SGD(model.parameters(), lr=0.1), rho=0.05)
    before = weights_of(model)

    def closure() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(torch.ones(2, 64)).float().square().sum()
        loss.backward()

    optimizer.step(closure)
    assert not same(weights_of(model), before)


def test_a_perturbation_that_selects_nothing_says_so() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1), "norm_only", model=model)
    loss_of(model, batch_of(0)).backward()
    with pytest.raises(UserError, match="NormOnly selects none of the 4"), optimizer.perturbed():
        pass
    nameless = SAM(SGD(model.parameters(), lr=0.1), "asam")
    with pytest.raises(UserError, match=r"has none: pass the model too"), nameless.perturbed():
        pass
    named = SAM(SGD(model.named_parameters(), lr=0.1), "asam")
    with named.perturbed():
        loss_of(model, batch_of(0)).backward()


def test_checkpoints_of_another_perturbation_are_refused() -> None:
    model = model_of()
    ascent = Ascent(SGD(model.parameters(), lr=0.1), "friendly_sam")
    loss_of(model, batch_of(0)).backward()
    with ascent.perturbed():
        loss_of(model, batch_of(0)).backward()
    other = Ascent(SGD(model.parameters(), lr=0.1), "looksam")
    with pytest.raises(UserError, match="what FriendlySAM remembered"):
        other.load_state_dict(ascent.state_dict())
    plain = Ascent(SGD(model.parameters(), lr=0.1))
    other.load_state_dict(plain.state_dict())  # nothing remembered, nothing lost


def test_wrapped_optimizers_are_opened_and_steps_counted() -> None:
    class Wrapper:
        """As of Lightning and Accelerate."""

        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

    model = model_of()
    base = AdamW(model.parameters())
    ascent = Ascent(Wrapper(Wrapper(base)))  # type: ignore[arg-type]
    loss_of(model, batch_of(0)).backward()
    with ascent.perturbed():
        loss_of(model, batch_of(0)).backward()
    base.step()
    assert ascent.step == 1


def test_the_ascent_dies_with_its_owner() -> None:
    model = model_of()
    base = SGD(model.parameters(), lr=0.1)
    ascent = Ascent(base)
    loss_of(model, batch_of(0)).backward()
    with ascent.perturbed():
        loss_of(model, batch_of(0)).backward()
    alive = weakref.ref(ascent)
    del ascent
    gc.collect()
    assert alive() is None
    loss_of(model, batch_of(0)).backward()
    base.step()  # its hooks do nothing


def test_parameters_that_a_trainer_replaces_are_seen() -> None:
    """Accelerate rewrites `group["params"]` in place; nothing of the old list may linger."""
    model, other = model_of(), model_of()
    base = SGD(model.parameters(), lr=0.1)
    optimizer = SAM(base, rho=0.5)
    base.param_groups[0]["params"] = list(other.parameters())
    before = weights_of(other)
    loss_of(other, batch_of(0)).backward()
    with optimizer.perturbed():
        assert not same(weights_of(other), before)
        loss_of(other, batch_of(0)).backward()
    assert same(weights_of(other), before)
    optimizer.step()
    assert not same(weights_of(other), before)


def test_a_closure_over_micro_batches_has_the_masks_of_its_first_call() -> None:
    model = model_of(dropout=0.5)
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    masks: list[Tensor] = []
    model[2].register_forward_hook(lambda m, i, o: masks.append(o == 0))
    states: list[Tensor] = []

    def closure() -> None:
        optimizer.zero_grad()
        for part in split(batch_of(0), 4):
            loss_of(model, part).backward()
        states.append(torch.get_rng_state())
        if len(states) == 1:
            torch.rand(7)  # a first pass that draws more than its replay

    optimizer.step(closure)
    after = torch.get_rng_state()
    assert same(masks[:4], masks[4:])
    assert torch.equal(*states)
    torch.set_rng_state(states[0])
    torch.rand(7)
    assert torch.equal(torch.get_rng_state(), after)  # the stream goes on from the first pass


def test_another_replicas_non_finite_gradient_is_told_to_this_one() -> None:
    model = model_of()
    optimizer = SGD(model.parameters(), lr=0.1)
    ascent = Ascent(optimizer)
    told = []

    def reduce(number: Tensor) -> None:
        told.append(number.item())
        number.add_(float("nan"))  # as the sum over replicas would be

    for reduction in (None, reduce):
        optimizer.zero_grad()
        loss_of(model, batch_of(0)).backward()
        with ascent.perturbed(reduce=reduction):
            loss_of(model, batch_of(0)).backward()
        finite = all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert finite == (reduction is None)
    assert len(told) == 1
    assert told[0] > 0


def two_ascents(between: Any = None, **options: Any) -> SAM:
    """Ascend for each of two micro-batches, with something between them."""
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1), **options)
    for part in split(batch_of(0), 2):
        with optimizer.first_pass():
            loss_of(model, part).backward()
        with optimizer.perturbed():
            loss_of(model, part).backward()
        if between is not None:
            between(model, optimizer)
    return optimizer


@pytest.mark.parametrize(
    "between",
    [
        None,
        lambda model, _: nn.utils.clip_grad_norm_(model.parameters(), 1e-3),
        lambda model, _: [p.grad.mul_(2) for p in model.parameters()],
    ],
)
def test_a_second_ascent_does_not_drop_the_first_ones_gradient(between: Any) -> None:
    with pytest.raises(
        UserError, match=r"another would replace it: to accumulate micro-batches.*per_micro_batch"
    ):
        two_ascents(between)
    two_ascents(between, per_micro_batch=True)


def test_a_second_ascent_without_a_backward_between_is_refused() -> None:
    model = model_of()
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    loss_of(model, batch_of(0)).backward()
    with optimizer.perturbed():
        loss_of(model, batch_of(0)).backward()
    with pytest.raises(UserError, match="neither stepped along nor cleared"), optimizer.perturbed():
        pass


@pytest.mark.parametrize(
    "clear",
    [
        lambda model, optimizer: optimizer.zero_grad(),
        lambda model, optimizer: optimizer.zero_grad(set_to_none=False),
        lambda model, optimizer: model.zero_grad(),
        lambda model, optimizer: model.zero_grad(set_to_none=False),
        lambda model, optimizer: optimizer.step(),
    ],
)
def test_a_descent_gradient_may_be_cleared_or_stepped_along(clear: Any) -> None:
    two_ascents(clear)


def test_a_step_without_a_replay_is_refused_however_it_is_taken() -> None:
    model = model_of()
    base = SGD(model.parameters(), lr=0.1)
    ascent = Ascent(base)
    before = weights_of(model)
    loss_of(model, batch_of(0)).backward()
    with pytest.raises(UserError, match=r"without a replay of this batch.*`with ascent\.perturbed\(\):`"):
        base.step()
    assert same(weights_of(model), before)
    assert ascent.step == 0


@pytest.mark.parametrize("name", ["sam", "asam", "gsam", "looksam", "friendly_sam"])
def test_an_optimizer_that_climbs_the_loss_is_refused(name: str) -> None:
    """The perturbation would climb with it, to where the loss is best and not worst."""
    model = model_of()
    base = AdamW(model.parameters(), maximize=True)
    with pytest.raises(UserError, match=r"maximize=True.*times -1"):
        Ascent(base, name)
    late = Ascent(AdamW(model.parameters()))
    late.parameter_groups.current[0]["maximize"] = True  # type: ignore[index]
    loss_of(model, batch_of(0)).backward()
    with pytest.raises(UserError, match="maximize=True"), late.perturbed():
        pass


def test_a_radius_of_a_group_is_not_ignored() -> None:
    """davda54/sam and pytorch_optimizer read it; Adadelta has a rho that is its own."""
    head = {"params": [nn.Parameter(torch.ones(2))], "rho": 0.0}
    with pytest.raises(UserError, match="a parameter group has its own rho"):
        Ascent(AdamW([head]))
    late = Ascent(torch.optim.Adadelta([head]))
    late.parameter_groups.current[0]["adaptive"] = True  # type: ignore[index]
    head["params"][0].sum().backward()
    with pytest.raises(UserError, match="a parameter group has its own adaptive"), late.perturbed():
        pass


def test_what_has_no_second_pass_may_climb() -> None:
    model = model_of()
    Ascent(AdamW(model.parameters(), maximize=True), "momentum_sam")
    SAM(AdamW(model.parameters(), maximize=True), rho=0.0)
