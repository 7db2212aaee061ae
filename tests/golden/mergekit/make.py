"""Makes what tests/merging/mergekit compares with: four tiny models, and merges of them by mergekit itself.

    python -m venv mergekit-venv && mergekit-venv/bin/pip install torch mergekit==0.1.5
    mergekit-venv/bin/python tests/golden/mergekit/make.py

Each case is a file of mergekit's as a user would write it, `NAME.yaml`, with its result, `NAME.safetensors`.
Run here with mergekit 0.1.5, torch 2.13.0+cpu and transformers 5.24.0; the models are those that
transformers 4.53.3 made, which another version would draw otherwise: they are made only where they are not.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
TASKS = ("a", "b", "c")


def models() -> None:
    """Write a base and three models whose weights moved by about a tenth of its own."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    base = {
        name: (tensor + 0.2 * torch.randn_like(tensor)).contiguous()
        for name, tensor in LlamaForCausalLM(config).state_dict().items()
    }
    for seed, name in enumerate(("base", *TASKS)):
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        generator = torch.manual_seed(seed)
        moved = {
            key: tensor + (0.02 * torch.randn(tensor.shape, generator=generator) if seed else 0)
            for key, tensor in base.items()
        }
        save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
        stated = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "float32"} | config.to_diff_dict()
        stated.pop("transformers_version", None)
        (folder / "config.json").write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n")


def listed(**parameters: list[object]) -> list[dict[str, object]]:
    """Return `models:`, each with its own of the parameters."""
    return [
        {"model": task, "parameters": {name: values[at] for name, values in parameters.items()}}
        if parameters
        else {"model": task}
        for at, task in enumerate(TASKS)
    ]


def vectors(method: str, models: list[dict[str, object]], **parameters: object) -> dict[str, object]:
    return {"merge_method": method, "base_model": "base", "models": models, "parameters": parameters}


WEIGHTS = [0.5, 0.3, 0.4]
DENSITIES = [0.5, 0.3, 0.8]
FILTERED = [{"filter": "mlp", "value": 0.9}, {"filter": "self_attn", "value": [0.1, 0.5]}, {"value": 0.4}]
CASES: dict[str, dict[str, object]] = {
    "linear": {"merge_method": "linear", "models": listed(weight=[1.0, 0.3, 2.0])},
    "linear_sum": {
        "merge_method": "linear",
        "models": listed(weight=WEIGHTS),
        "parameters": {"normalize": False},
        "dtype": "float32",
    },
    "linear_gradient": {
        "merge_method": "linear",
        "models": [{"model": "base", "parameters": {"weight": 1.0}}, *listed(weight=[[0, 1], 0.5, FILTERED])],
    },
    "task_arithmetic": vectors("task_arithmetic", listed(weight=WEIGHTS)),
    "task_arithmetic_normalized": vectors(
        "task_arithmetic", listed(weight=[0.5, -0.1, 0.4]), normalize=True, **{"lambda": 0.7}
    ),
    "ties": vectors("ties", listed(weight=WEIGHTS, density=DENSITIES)),
    "ties_base_listed": vectors(
        "ties", [{"model": "base"}, *listed(weight=WEIGHTS)], density=0.4, normalize=True, int8_mask=True
    ),
    "ties_sum": vectors("ties", listed(density=DENSITIES), weight=1.0, normalize=False, **{"lambda": 0.4}),
    "ties_filters": vectors(
        "ties",
        listed(weight=[FILTERED, 1, [1, 0.2, 0.6]], density=[0.5, FILTERED, [0.2, 0.9]]),
        **{"lambda": [{"filter": "lm_head", "value": 0.5}, {"value": 1.2}]},
    ),
    "ties_negative": vectors("ties", listed(weight=[0.5, -0.3, 0.4], density=DENSITIES), rescale=True),
    "dare_linear_dense": vectors("dare_linear", listed(weight=WEIGHTS)),
    "dare_ties_dense": vectors("dare_ties", listed(weight=WEIGHTS), normalize=True),
    "dare_ties_dense_sum": vectors("dare_ties", listed(weight=WEIGHTS)),
    "della_dense": vectors("della", listed(weight=WEIGHTS)),
    "della_linear_dense": vectors("della_linear", listed(weight=WEIGHTS), **{"lambda": 0.6}),
    "breadcrumbs": vectors("breadcrumbs", listed(weight=WEIGHTS, density=DENSITIES), gamma=0.15),
    "breadcrumbs_default": vectors("breadcrumbs", listed(weight=WEIGHTS), density=0.9),
    "breadcrumbs_ties": vectors(
        "breadcrumbs_ties", listed(weight=WEIGHTS, density=[0.5, 0.3, 0.9], gamma=[0.2, 0.15, 0.25])
    ),
    "breadcrumbs_ties_normalized": vectors(
        "breadcrumbs_ties", listed(weight=WEIGHTS), density=0.6, gamma=0.13, normalize=True, rescale=True
    ),
    "slerp": vectors("slerp", [{"model": "base"}, {"model": "a"}], t=0.3),
    "slerp_gradient": vectors(
        "slerp",
        [{"model": "a"}, {"model": "base"}],
        t=[
            {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
            {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
            {"value": 0.5},
        ],
    ),
    "nuslerp": {"merge_method": "nuslerp", "models": listed(weight=[1.0, 0.4, 0])[:2]},
    "nuslerp_base": vectors("nuslerp", listed(weight=[1.0, 0.4, 0])[:2]),
    "multislerp": {"merge_method": "multislerp", "models": listed(weight=WEIGHTS)},
    "multislerp_base": vectors("multislerp", listed(weight=WEIGHTS), normalize_weights=False),
    "karcher": {"merge_method": "karcher", "models": listed()},
    "karcher_base": vectors("karcher", listed(), max_iter=20, tol=1e-6),
    "sce": vectors("sce", listed()),
    "sce_some": vectors("sce", listed(), select_topk=0.3),
    "sce_gradient": vectors("sce", listed(), select_topk=[0.2, 0.9]),
    "nearswap": vectors("nearswap", [{"model": "a"}], t=0.01),
    "nearswap_gradient": vectors("nearswap", [{"model": "base"}, {"model": "a"}], t=[0.001, 0.03]),
    "arcee_fusion": vectors("arcee_fusion", [{"model": "a"}]),
    "ram": vectors("ram", listed(), epsilon=0.02),
    "ram_default": vectors("ram", listed()),
    "ramplus_tl": vectors("ramplus_tl", listed(), epsilon=0.03),
    "ramplus_tl_strong": vectors("ramplus_tl", listed(), epsilon=0.02, r=0.5, alpha=1.5),
    "model_stock": {"merge_method": "model_stock", "base_model": "base", "models": listed()},
    "out_dtype": vectors("task_arithmetic", listed(weight=WEIGHTS))
    | {"dtype": "float32", "out_dtype": "bfloat16"},
}


def main() -> None:
    os.chdir(HERE)
    for old in [*HERE.glob("*.yaml"), *HERE.glob("*.safetensors")]:
        old.unlink()
    if not (HERE / "base").is_dir():
        models()
    for name, case in CASES.items():
        case = {key: value for key, value in case.items() if value != {}}
        text = yaml.safe_dump(case, sort_keys=False, default_flow_style=None, width=100)
        (HERE / f"{name}.yaml").write_text(text)
        with tempfile.TemporaryDirectory() as out:
            options = MergeOptions(copy_tokenizer=False, write_model_card=False, random_seed=0, quiet=True)
            run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), out, options)
            shutil.copyfile(Path(out) / "model.safetensors", HERE / f"{name}.safetensors")


if __name__ == "__main__":
    main()
