from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saft.measure import weight_interference


@pytest.fixture
def models(tiny_model: Path, tmp_path: Path) -> dict[str, str]:
    """Return two copies of the model, each moved at random."""
    folders = {}
    for seed, name in enumerate(("a", "b")):
        shutil.copytree(tiny_model, tmp_path / name)
        generator = torch.Generator().manual_seed(seed)
        weights = load_file(tiny_model / "model.safetensors")
        moved = {
            key: value + 0.01 * torch.randn(value.shape, generator=generator)
            for key, value in weights.items()
        }
        save_file(moved, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        folders[name] = str(tmp_path / name)
    return folders


def test_the_stream_equals_the_dense_vectors(tiny_model: Path, models: dict[str, str]) -> None:
    base = load_file(tiny_model / "model.safetensors")
    vectors = torch.stack(
        [
            torch.cat(
                [
                    (load_file(Path(folder) / "model.safetensors")[key] - base[key]).flatten()
                    for key in sorted(base)
                ]
            )
            for folder in models.values()
        ]
    ).double()
    result = weight_interference(str(tiny_model), models, density=0.2)
    measured = result.measured
    assert result.tasks == ["a", "b"]
    assert result.n_entries == vectors.shape[1]
    assert list(measured["norm"].values()) == pytest.approx(vectors.norm(dim=1).tolist(), rel=1e-6)
    cosine = torch.nn.functional.cosine_similarity(vectors[0], vectors[1], dim=0).item()
    assert measured["cosine"]["a"]["b"] == pytest.approx(cosine, abs=1e-6)
    both = (vectors != 0).all(0)
    rate = ((vectors[0] * vectors[1] < 0) & both).sum() / both.sum()
    assert measured["sign_conflict"] == pytest.approx(rate.item(), abs=1e-6)
    assert measured["kept"] == pytest.approx({"a": 0.2, "b": 0.2}, abs=1e-3)


def test_excluded_tensors_do_not_count(tiny_model: Path, models: dict[str, str]) -> None:
    whole = weight_interference(str(tiny_model), models, density=1.0)
    part = weight_interference(str(tiny_model), models, density=1.0, exclude=["embeddings.*"])
    embeddings = sum(
        value.numel()
        for name, value in load_file(tiny_model / "model.safetensors").items()
        if name.startswith("embeddings.")
    )
    assert whole.n_entries - part.n_entries == embeddings
