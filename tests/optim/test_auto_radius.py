"""rho: auto against quadratics whose radius is known, and against everything that it must leave as it was."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import SGD, AdamW

from saft.errors import UserError
from saft.optim import PERTURBATIONS, SAM, Ascent, make_perturbation
from saft.optim.auto_radius import BrokenLoss, find_radius, radius_of_rise
from saft.optim.perturbations.base import PROBES

H = torch.tensor([4.0, 1.0, 0.25])


def quadratic(w: Tensor) -> Tensor:
    """Return ½ Σ h w²."""
    return 0.5 * (H * w * w).sum()


def sam_on(w: nn.Parameter, perturbation: str = "sam", **options: object) -> SAM:
    return SAM(SGD([w], lr=0.1), perturbation, rho="auto", model=(), **options)


def closure_of(optimizer: SAM, w: nn.Parameter, scale: float = 1.0) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = scale * quadratic(w)
        loss.backward()
        return loss

    return closure


def root(a: float, b: float, rise: float) -> float:
    """Return the positive ρ of a ρ² + b ρ = rise."""
    return (-b + math.sqrt(b * b + 4 * a * rise)) / (2 * a)


@pytest.mark.parametrize("rise", [0.01, 0.1, 2.0])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_radius_of_a_quadratic_is_the_root_of_its_rise_whatever_the_loss_is_multiplied_by(
    rise: float, scale: float
) -> None:
    """ε = ρ g/‖g‖, so L(w + ε) − L(w) = ρ ‖g‖ + ½ ρ² gᵀ H g / ‖g‖²."""
    w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    g = H * w.detach()
    loss, norm = quadratic(w.detach()).item(), g.norm().item()
    curvature = (0.5 * (H * g * g).sum() / norm**2).item()
    optimizer = sam_on(w, rise=rise)
    optimizer.step(closure_of(optimizer, w, scale))
    assert optimizer.ascent.rho == pytest.approx(root(curvature / loss, norm / loss, rise), rel=0.02)


def test_the_radius_is_in_the_perturbations_own_metric() -> None:
    """ASAM: ε = ρ T² g / ‖T g‖ with T = |w| + η, and ρ is the length of T⁻¹ ε."""
    w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    g, t = H * w.detach(), w.detach().abs() + 0.01
    direction = t * t * g / (t * g).norm()
    loss = quadratic(w.detach()).item()
    expected = root(0.5 * (H * direction**2).sum().item() / loss, (g * direction).sum().item() / loss, 0.1)
    optimizer = SAM(SGD([("weight", w)], lr=0.1), "asam", rho="auto")
    optimizer.step(closure_of(optimizer, w))
    assert optimizer.ascent.rho == pytest.approx(expected, rel=0.02)


def test_after_it_was_found_it_is_the_number_and_steps_are_those_of_the_number() -> None:
    found = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    auto = sam_on(found)
    closure = closure_of(auto, found)
    auto.step(closure)
    rho = auto.ascent.rho
    given = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    number = SAM(SGD([given], lr=0.1), rho=rho)
    number.step(closure_of(number, given))
    for _ in range(3):
        assert torch.equal(found, given)
        auto.step(closure)
        number.step(closure_of(number, given))
    assert auto.ascent.rho == rho


class Net(nn.Module):
    """Dropout and a batch norm, which a search must not be seen in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.dropout, self.last = nn.Dropout(0.3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.dropout(torch.tanh(self.norm(self.first(x)))))


def trained(
    perturbation: str, steps: int, rho: float | str, state: dict | None = None, **options: object
) -> tuple[Net, SAM]:
    """Return a model after some steps, the first ones of it from a state where one is given."""
    torch.manual_seed(0)
    model = Net()
    optimizer = SAM(AdamW(model.parameters(), lr=1e-2), perturbation, rho=rho, model=model, **options)
    first = 0
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = optimizer.ascent.step
    for step in range(first, steps):
        torch.manual_seed(100 + step)
        x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return model, optimizer


def assert_equal(a: Net, b: Net) -> None:
    other = b.state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())


REPLAYING = [name for name in PERTURBATIONS.names() if PERTURBATIONS.get(name).replays]


@pytest.mark.parametrize("name", REPLAYING)
def test_nothing_of_the_search_is_seen_in_the_training(name: str) -> None:
    auto, optimizer = trained(name, 3, "auto")
    number, _ = trained(name, 3, optimizer.ascent.perturbation.rho)
    assert_equal(auto, number)
    assert not optimizer.ascent.needs_radius


@pytest.mark.parametrize("interrupted_at", [1, 3])
def test_a_resumed_training_is_the_uninterrupted_one(interrupted_at: int) -> None:
    """The radius is found at step 2: before it the checkpoint holds none, after it the one that was found."""
    whole, optimizer = trained("friendly_sam", 5, "auto", start=2)
    model, before = trained("friendly_sam", interrupted_at, "auto", start=2)
    state = copy.deepcopy({"model": model.state_dict(), "optimizer": before.state_dict()})
    assert (state["optimizer"]["saft"]["rho"] is None) == (interrupted_at == 1)
    resumed, after = trained("friendly_sam", 5, "auto", state, start=2)
    assert_equal(whole, resumed)
    assert after.ascent.perturbation == optimizer.ascent.perturbation


def test_a_number_of_the_user_goes_before_the_one_of_a_checkpoint() -> None:
    model, optimizer = trained("sam", 2, "auto")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    _, given = trained("sam", 2, 0.25, state)
    assert given.ascent.perturbation.rho == 0.25


def test_the_passes_of_the_search_are_counted() -> None:
    calls = []
    w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    optimizer = sam_on(w)
    closure = closure_of(optimizer, w)

    def counting() -> Tensor:
        calls.append(1)
        return closure()

    for _ in range(4):
        optimizer.step(counting)
    assert len(calls) == make_perturbation("sam", rho="auto").passes(4) == 8 + 2 * PROBES
    assert make_perturbation("sam", rho="auto", start=9).passes(4) == 4


def test_the_schedule_is_no_part_of_what_is_found() -> None:
    w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    halved = sam_on(w, schedule=lambda step: 0.5)
    halved.step(closure_of(halved, w))
    v = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    plain = sam_on(v)
    plain.step(closure_of(plain, v))
    assert halved.ascent.perturbation.rho == plain.ascent.perturbation.rho
    assert halved.ascent.rho == plain.ascent.rho / 2


def test_a_radius_that_follows_the_learning_rate_by_itself_is_found_as_its_largest() -> None:
    found = {}
    for name in ("sam", "gsam"):
        w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
        optimizer = sam_on(w, name)
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 10)
        optimizer.step(closure_of(optimizer, w))
        found[name] = optimizer.ascent.perturbation.rho
    assert found["gsam"] == found["sam"]


@pytest.mark.parametrize("start", [1e-6, 1.0, 1e4])
def test_the_search_comes_from_far(start: float) -> None:
    assert radius_of_rise(lambda rho: rho + 4 * rho**2, 0.1, start) == pytest.approx(0.0784, rel=0.3)


def test_a_loss_that_becomes_infinite_is_too_high() -> None:
    found = radius_of_rise(lambda rho: math.inf if rho > 1 else rho, 0.5, 8.0)
    assert found == pytest.approx(0.5, rel=0.5)


def test_what_never_rises_is_told_and_nothing_is_left_behind() -> None:
    w = nn.Parameter(torch.zeros(3))
    optimizer = SAM(SGD([w], lr=0.1), rho="auto")

    def flat() -> Tensor:
        optimizer.zero_grad()
        loss = 1 + 0 * w.sum()
        loss.backward()
        return loss

    with pytest.raises(UserError, match=r"rho: auto: no radius was found that raises the loss by 0.1 of it"):
        optimizer.step(flat)
    assert torch.equal(w, torch.zeros(3))
    assert optimizer.ascent.needs_radius


@pytest.mark.parametrize("loss", [0.0, math.nan, math.inf])
def test_a_loss_without_a_share_is_told(loss: float) -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = SAM(SGD([w], lr=0.1), rho="auto")

    def closure() -> float:
        optimizer.zero_grad()
        w.sum().backward()
        return loss

    with pytest.raises(UserError, match=r"rho: auto: the loss at the first ascent is") as refused:
        optimizer.step(closure)
    assert isinstance(refused.value, BrokenLoss) == (loss != 0)
    assert torch.equal(w, torch.ones(3))


@pytest.mark.parametrize(
    ("beside", "called"), [(lambda loss: (loss, 0.9), "a tuple"), (lambda loss: None, "nothing")]
)
def test_a_closure_that_returns_more_or_less_than_the_loss_is_told(beside, called):
    w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    optimizer = sam_on(w)
    closure = closure_of(optimizer, w)
    with pytest.raises(UserError, match=f"must return the loss.*but returned {called}"):
        optimizer.step(lambda: beside(closure()))


def test_a_loop_without_a_closure_is_told_the_cure_which_helps() -> None:
    w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    optimizer = sam_on(w)
    closure = closure_of(optimizer, w)
    closure()
    with (
        pytest.raises(UserError, match=r"find_radius before the first pass; here give a number"),
        optimizer.perturbed(),
    ):
        pass
    find_radius(optimizer.ascent, closure, closure)
    closure()
    with optimizer.perturbed():
        closure()
    optimizer.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": "auto", "rise": 0}, "rise: must be above 0, but is 0"),
        ({"rho": "auto", "rise": "much"}, "rise: must be a number, but is 'much'"),
        ({"rho": 0.05, "rise": 0.1}, "rise: goes with rho: auto"),
        ({"rise": 0.1}, "rise: goes with rho: auto"),
        ({"rho": "atuo"}, "rho: must be a number, auto or others, but is 'atuo'; did you mean 'auto'?"),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as refused:
        make_perturbation("sam", **options)
    assert message in str(refused.value)


@pytest.mark.parametrize("name", [name for name in PERTURBATIONS.names() if name not in REPLAYING])
def test_what_has_no_second_pass_takes_no_auto(name: str) -> None:
    with pytest.raises(UserError, match="rho: cannot be auto, since it has no second pass"):
        make_perturbation(name, rho="auto")


def test_processes_share_one_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of the losses of all processes is what rises."""
    import torch.distributed as dist

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(
        dist, "all_reduce", lambda value: value.add_(3 * value)
    )  # the other's is 3 times ours
    w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    ascent = Ascent([{"params": [w]}], make_perturbation("sam", rho="auto"))

    def loss() -> Tensor:
        value = quadratic(w)
        value.backward()
        return value

    together = find_radius(ascent, loss, loss)
    monkeypatch.undo()
    assert together == find_radius(
        Ascent([{"params": [w]}], make_perturbation("sam", rho="auto")), loss, loss
    )


def test_it_is_sought_again_after_steps_that_a_gradient_scaler_skips():
    w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer, before = sam_on(w, rise=0.1), w.detach().clone()
    scaler = GradScaler("cpu", init_scale=2.0**20)

    def step() -> None:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = quadratic(w)
            largest = 2.0**18  # what the gradient's dtype holds, as it were
            scale = scaler.get_scale()
            scaler.scale(loss * (1.0 if scale < largest else torch.inf)).backward()
            return loss

        optimizer.step(closure, scaler=scaler)
        scaler.update()

    for _ in range(3):
        assert optimizer.ascent.needs_radius
        step()
        assert w.equal(before)
    step()
    other = nn.Parameter(before.clone())
    plain = sam_on(other, rise=0.1)
    plain.step(closure_of(plain, other))
    assert optimizer.ascent.rho == plain.ascent.rho
    torch.testing.assert_close(w, other)
