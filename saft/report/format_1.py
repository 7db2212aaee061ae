"""The results that the experiment still gives as a mapping, as `Results`; goes when it gives them typed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from saft.interference.sharpness import Sharpness
from saft.report.results import Results, from_json
from saft.tasks.metric import Metric

__all__ = ["typed"]


def typed(results: dict[str, Any]) -> Results:
    """Return results of format 1 as `Results`."""
    protocol = results["protocol"]
    described, sizes = (
        protocol["tasks"],
        {name: r["train_examples"] for name, r in protocol["regimes"].items()},
    )
    rho = results["config"]["sharpness_rho"]

    def score(task: str, value: float | None, split: str) -> dict[str, Any] | None:
        if value is None:
            return None
        return {"value": value, "standard_error": None, "examples": described[task][split]}

    def scores(values: dict[str, Any], split: str) -> dict[str, Any] | None:
        return None if None in values.values() else {t: score(t, v, split) for t, v in values.items()}

    def both(task: str, of: dict[str, Any]) -> dict[str, Any]:
        return {split: score(task, of[split], split) for split in ("validation", "test")}

    def merge(of: dict[str, Any]) -> dict[str, Any]:
        curve = [p | {"validation": scores(p["validation"], "validation")} for p in of["curve"]]
        chosen = {
            name: of[name] | {"test": scores(of[name]["test"], "test")} for name in ("shared", "per_task")
        }
        return of | chosen | {"curve": curve}

    def cell(of: dict[str, Any]) -> dict[str, Any]:
        sharp = {task: expert["sharpness"] for task, expert in of["experts"].items()}
        measured = {name: {task: sharp[task][name] for task in sharp} for name in ("loss", "sharpness")}
        return {
            "train_size": of["regime"],
            "arm": of["arm"],
            "seed": of["seed"],
            "experts": {t: both(t, e) | {"steps": e["steps"]} for t, e in of["experts"].items()},
            "merges": {method: merge(m) for method, m in of["merges"].items()},
            "measured": of["interference"]["measured"] | measured,
        }

    def arm(of: dict[str, Any]) -> dict[str, Any]:
        candidates = of["steps"] if isinstance(of["steps"], list) else []
        facts = {key: of[key] for key in ("description", "perturbation", "rho", "passes")}
        return facts | {"steps": max(candidates) if candidates else of["steps"], "select_steps": candidates}

    def task(name: str, of: dict[str, Any]) -> dict[str, Any]:
        facts = {key: of.get(key) for key in ("validation", "test", "labels")}
        facts["kind"] = results["config"]["tasks"][name]["kind"]
        metric = (
            Metric(of["metric"], "%") if of["metric"] == "accuracy" else Metric(of["metric"], "", scale=1.0)
        )
        return facts | {"metric": dataclasses.asdict(metric), "train": dict.fromkeys(sizes, of["train"])}

    sharpness = {name: dataclasses.asdict(q) for name, q in Sharpness(rho).quantities.items()}
    mapping = {
        "format": 2,
        "versions": results["versions"],
        "device": results["device"],
        "config": results["config"],
        "protocol": {
            "tasks": {name: task(name, of) for name, of in described.items()},
            "seeds": protocol["seeds"],
            "train_sizes": sizes,
            "coefficient": protocol["coefficient"],
            "test_reads": protocol["test_reads"],
            "tests": results["config"]["test"],
        },
        "arms": {name: arm(of) for name, of in results["arms"].items()},
        "base": {name: both(name, of) for name, of in results["base"].items()},
        "cells": [cell(of) for of in results["cells"]],
        "quantities": results["cells"][0]["interference"]["quantities"] | sharpness,
    }
    return from_json(json.dumps(mapping))
