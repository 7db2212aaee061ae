"""A merge of the weights that are being trained with another checkpoint, and its evaluation, in a process.

What is measured lies between a step of the training and the loss of the merged model. A line of JSON says how
long it took, in all and part by part, and how much memory it took beyond that of the trainer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from measured_memory import answering, measured
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

ROWS, TOKENS = 4, 32  # that the merged model is evaluated on: nearly nothing, beside the merge
Run = Callable[[], tuple[float, dict[str, float]]]  # the loss of the merge, and the seconds of each part


def trainer_of(model: PreTrainedModel, request: Mapping[str, Any]) -> Trainer:
    """Return a trainer that evaluates, of which no step is done here."""
    ids = torch.randint(model.config.vocab_size, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    arguments = TrainingArguments(
        str(Path(request["out"]).with_suffix("")),
        report_to="none",
        disable_tqdm=True,
        use_cpu=request["device"] == "cpu",
        dataloader_pin_memory=False,
    )
    return Trainer(model, arguments, eval_dataset=[{"input_ids": row, "labels": row} for row in ids])


def saft(trainer: Trainer, request: Mapping[str, Any]) -> Run:
    """Merge in the place of the model that is trained, and evaluate that."""
    from saft.integrations.transformers import EvaluateMerge

    callback = EvaluateMerge(
        trainer, request["base"], {"other": request["other"]}, **request["parameters"], every=1
    )

    def run() -> tuple[float, dict[str, float]]:
        callback.on_step_end(trainer.args, SimpleNamespace(global_step=1), trainer.control)
        logged = next(entry for entry in trainer.state.log_history if "eval_merged_loss" in entry)
        return logged["eval_merged_loss"], {}

    return run


def trl(trainer: Trainer, request: Mapping[str, Any]) -> Run:
    """Write a checkpoint, have TRL's callback merge it with the other, read the result and evaluate that."""
    from trl.experimental.merge_model_callback import MergeConfig, MergeModelCallback

    settings = MergeConfig(request["method"])
    settings.target_model_path, settings.dtype = request["other"], "float32"
    callback = MergeModelCallback(settings, merge_at_every_checkpoint=True)
    checkpoint = Path(trainer.args.output_dir, "checkpoint-1")

    def run() -> tuple[float, dict[str, float]]:
        at = [time.perf_counter()]
        trainer.save_model(str(checkpoint))
        at.append(time.perf_counter())
        callback.on_save(trainer.args, SimpleNamespace(global_step=1), None, model=trainer.model)
        at.append(time.perf_counter())
        merged = AutoModelForCausalLM.from_pretrained(checkpoint / "merged")
        loss = trainer_of(merged, request).evaluate()["eval_loss"]
        at.append(time.perf_counter())
        names = ("save", "merge", "load and evaluate")
        return loss, {name: at[place + 1] - at[place] for place, name in enumerate(names)}

    return run


def merge(request: Mapping[str, Any]) -> dict[str, Any]:
    """Merge, evaluate, write the loss to a file, and return what it took."""
    trainer = trainer_of(AutoModelForCausalLM.from_pretrained(request["current"]), request)
    trainer.evaluate()  # what is imported and prepared the first time
    run = {"saft": saft, "trl": trl}[request["tool"]](trainer, request)
    (loss, parts), figures = measured(run, request["device"])
    save_file({"loss": torch.tensor([loss], dtype=torch.float64)}, request["out"])
    return {**figures, "parts": parts}


if __name__ == "__main__":
    answering(merge)
