"""What a search of an arm's `choices` finds against every combination, on tiny models that are merged.

Three tasks on Gaussian inputs, one pretrained two-layer network, SAM with four options to choose. Every
combination is trained on every task and merged, which takes a minute; the searches then look values up, so
that many seeds of them can be compared. Prints a table for a README, and writes a JSON of every figure.
Nothing is timed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from publish import markdown, publish
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from saft.experiment import trial_search
from saft.experiment.arm_trials import ArmTrial, arm_trials, drawn
from saft.experiment.trial_search import TrialSearch
from saft.optim import SAM

CHOICES = {
    "learning_rate": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2],
    "steps": [20, 40, 80],
    "perturbation.rho": [0.0, 0.01, 0.03, 0.1, 0.3],
    "schedule": ["constant", "linear"],
}
INPUTS, HIDDEN, CLASSES, TASKS, TRAIN, VALIDATION = 16, 24, 4, 3, 64, 2000
COEFFICIENT = 0.5


def tasks() -> list[tuple[Tensor, Tensor]]:
    """Return inputs and labels of each task, drawn from related teachers; the last one is for pretraining."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(INPUTS, CLASSES, generator=generator)
    made = []
    for _ in range(TASKS + 1):
        own = common + 1.5 * torch.randn(INPUTS, CLASSES, generator=generator)
        inputs = torch.randn(TRAIN + VALIDATION, INPUTS, generator=generator)
        noise = torch.randn(len(inputs), CLASSES, generator=generator)
        made.append((inputs, ((inputs.tanh() @ own) + noise).argmax(1)))
    return made


def network() -> nn.Sequential:
    """Return the network, with the same first weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))


def trained(base: dict[str, Tensor], data: tuple[Tensor, Tensor], trial: ArmTrial) -> dict[str, Tensor]:
    """Return the weights of an expert."""
    model = network()
    model.load_state_dict(base)
    rate, steps, rho, schedule = (trial.values[option] for option in CHOICES)
    optimizer = SAM(torch.optim.AdamW(model.parameters(), lr=rate), rho=rho)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        batch = torch.randint(0, TRAIN, (16,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps if schedule == "linear" else 1)

        def closure(batch: Tensor = batch) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(data[0][batch]), data[1][batch])
            loss.backward()
            return loss

        optimizer.step(closure)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def every_worth(trials: Sequence[ArmTrial]) -> dict[str, float]:
    """Return name of a trial -> mean merged validation accuracy in percent."""
    *data, general = tasks()
    pretraining = ArmTrial("base", dict(zip(CHOICES, [1e-2, 80, 0.0, "constant"], strict=True)))
    base = trained(network().state_dict(), general, pretraining)
    worths = {}
    for trial in track(trials, "every combination", console=Console(stderr=True)):
        experts = [trained(base, task, trial) for task in data]
        merged = {
            name: tensor + COEFFICIENT * sum(expert[name] - tensor for expert in experts)
            for name, tensor in base.items()
        }
        model = network()
        model.load_state_dict(merged)
        with torch.no_grad():
            right = [(model(x[TRAIN:]).argmax(1) == y[TRAIN:]).float().mean().item() for x, y in data]
        worths[trial.name] = 100 * statistics.fmean(right)
    return worths


def at_random(trials: list[ArmTrial], passes: dict[str, float], budget: float, seed: int) -> list[ArmTrial]:
    """Draw as `arm_search: random` does."""
    return drawn(trials, passes, budget, seed)


def by_tpe(worths: dict[str, float], together: int) -> Callable[..., list[ArmTrial]]:
    """Return a search that draws as `arm_search: tpe` does, so many trials at a time."""

    def search(trials: list[ArmTrial], passes: dict[str, float], budget: float, seed: int) -> list[ArmTrial]:
        trial_search.NEXT = together
        made, tried = TrialSearch(trials, passes, budget, seed), list[ArmTrial]()
        while more := made.next_round({trial.name: worths[trial.name] for trial in tried}):
            tried += more
        return tried

    return search


def main() -> None:
    """Search in every way, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="searches of each kind")
    parser.add_argument("--shares", default="0.04,0.08,0.16", help="budgets, in parts of every combination")
    parser.add_argument("--json", type=Path, help="where to write every figure")
    options = parser.parse_args()
    torch.set_num_threads(1)
    trials = arm_trials("sam", {"choices": CHOICES})
    passes = {t.name: t.values["steps"] * (2.0 if t.values["perturbation.rho"] else 1.0) for t in trials}
    worths, everything = every_worth(trials), sum(passes.values())
    best = max(worths.values())
    middle = statistics.median(worths.values())
    kept = trial_search.NEXT
    searches = {"at random": at_random} | {
        f"TPE, rounds of {together}": by_tpe(worths, together) for together in (1, kept, 4)
    }
    lines, figures = [], {}
    for share in map(float, options.shares.split(",")):
        for name, search in searches.items():
            found, counts = [], []
            for seed in track(range(options.seeds), f"{name}, {share:g}", console=Console(stderr=True)):
                tried = search(trials, passes, share * everything, seed)
                found.append(max(worths[trial.name] for trial in tried))
                counts.append(len(tried))
            less = [best - value for value in found]
            error = statistics.stdev(less) / len(less) ** 0.5
            hits = sum(value == 0 for value in less)
            figures[f"{name}, {share:g}"] = less
            lines.append(
                [
                    name,
                    f"{share * everything:.0f}",
                    f"{statistics.fmean(counts):.1f}",
                    f"{statistics.fmean(less):.2f} ± {error:.2f}",
                    f"{statistics.quantiles(less, n=10)[-1]:.2f}",
                    f"{hits}",
                ]
            )
    headings = ("passes", "trials", "less than the best", "worst tenth", f"best found, of {options.seeds}")
    print(f"{len(trials)} combinations, {everything:.0f} passes: best {best:.2f}, median {middle:.2f}")
    publish(markdown(headings, lines), {"worths": worths, "less": figures}, options.json)


if __name__ == "__main__":
    main()
