"""Small checkpoints to merge."""

from __future__ import annotations

import pytest
import torch
import transformers

from saft.files.checkpoint import write_tensors

SHAPES = {
    "embeddings.weight": (40, 8),
    "layer.0.weight": (300, 70),
    "layer.0.bias": (70,),
    "layer.1.weight": (70, 3),
    "scale": (),
    "nothing": (0, 4),
}


def draw(shapes, seed, spread, dtype=torch.float32):
    generator = torch.manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator) * spread).to(dtype) for name, shape in shapes.items()
    }


@pytest.fixture
def save(tmp_path):
    """Write tensors as a checkpoint folder below tmp_path and return its path as text."""

    def write(name, tensors, **files):
        folder = tmp_path / name
        folder.mkdir()
        write_tensors(folder / "model.safetensors", tensors)
        (folder / "config.json").write_text('{"model_type": "tiny", "dtype": "float32"}')
        for file, text in files.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(text)
        return str(folder)

    return write


@pytest.fixture
def base_tensors():
    return draw(SHAPES, 0, 0.1) | {"position_ids": torch.arange(5), "mask": torch.tensor([True, False])}


@pytest.fixture
def task_tensors(base_tensors):
    """Three fine-tuned models' tensors, by task."""
    found = {}
    for seed, task in enumerate(("a", "b", "c"), start=1):
        moves = draw(SHAPES, seed, 0.01)
        found[task] = base_tensors | {name: base_tensors[name] + moves[name] for name in SHAPES}
    return found


@pytest.fixture
def checkpoints(save, base_tensors, task_tensors):
    """The folders of the base and of {task: model}."""
    return save("base", base_tensors), {task: save(task, tensors) for task, tensors in task_tensors.items()}


@pytest.fixture
def berts(tiny_model):
    """A base and two models that were fine-tuned from it, as modules."""
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = transformers.AutoModel.from_pretrained(tiny_model)
        with torch.no_grad():
            for weight in model.parameters() if seed else ():
                weight += torch.randn_like(weight) * 0.01
        found.append(model.eval())
    return found
