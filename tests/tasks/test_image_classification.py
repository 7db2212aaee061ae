from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional

import saft
from saft import tasks
from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.tasks import BoundTask, Limits, TaskModel
from saft.tasks.heads import LinearHead, PrototypeHead, ZeroShotHead
from saft.tasks.image_examples import Variation
from saft.tasks.image_processor import load_preprocessing
from tests.tasks.tiny_vision import KINDS, LABELS, SEEING, SIDE, images, model, task


def model_of(task: BoundTask) -> TaskModel:
    return task.model(task.load_trunk())


def bound(mapping: dict[str, Any], folder: Path) -> BoundTask:
    return tasks.build("shade", mapping, "tasks").bind("shade", ModelConfig(str(folder)), "t")


@pytest.mark.parametrize("kind", KINDS)
def test_the_inputs_are_what_the_models_own_processor_makes(kind: str, tmp_path: Path) -> None:
    made = bound(task(tmp_path), model(kind, tmp_path / "m"))
    batch = made.examples(Limits(train=0, validation=0)).test.collate(list(range(30)))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "m", backend="pil")
    grey = [Image.fromarray(pixels).convert("RGB") for pixels in images(30, 1)[0]]
    expected = {
        tuple(row.flatten()[:50].tolist()) for row in processor(grey, return_tensors="pt")["pixel_values"]
    }
    got = {tuple(row.flatten()[:50].tolist()) for row in batch.inputs["pixel_values"]}
    assert got == expected
    assert batch.inputs["pixel_values"].shape == (30, 3, SIDE, SIDE)


@pytest.mark.parametrize(
    "name",
    [
        "BeitImageProcessorPil",
        "CLIPImageProcessorPil",
        "EfficientNetImageProcessorPil",
        "LevitImageProcessorPil",
        "MobileViTImageProcessorPil",
        "SegformerImageProcessorPil",
    ],
)
def test_both_halves_are_what_a_processor_does_in_one(name: str, tmp_path: Path) -> None:
    processor = getattr(transformers, name)()
    processor.save_pretrained(tmp_path)
    colours = np.random.default_rng(1).integers(0, 256, (31, 42, 3), dtype=np.uint8)
    picture = Image.fromarray(colours).resize((420, 310))
    made = load_preprocessing(str(tmp_path), None, "t")
    expected = torch.from_numpy(np.stack(processor(images=[picture])["pixel_values"]))
    torch.testing.assert_close(made.normalized([made.pixels(picture)]), expected)


@pytest.mark.parametrize("name", ["SamImageProcessorPil", "VideoMAEImageProcessorPil"])
def test_a_processor_that_does_more_is_refused(name: str, tmp_path: Path) -> None:
    getattr(transformers, name)().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"t: the image processor of .*, {name}, makes more of an image"):
        load_preprocessing(str(tmp_path), None, "t")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["prototype", "linear", "zero_shot"])
def test_every_head_on_every_model(kind: str, head: str, tmp_path: Path) -> None:
    folder = model(kind, tmp_path / "m")
    if head == "zero_shot" and kind not in ("clip", "siglip"):
        with pytest.raises(UserError, match=r"t.head: zero_shot needs a model with a text tower"):
            bound(task(tmp_path, head=head), folder)
        return
    made = bound(task(tmp_path, head=head), folder)
    classifier = made.model(made.load_trunk())
    batch = made.examples(Limits(train=4, validation=4)).train.collate([0, 1, 2])
    assert classifier(batch.inputs).shape == (3, 3)
    features = made.features(classifier.trunk, batch.inputs)
    assert torch.equal(features, classifier.features(batch.inputs))
    expected = {"prototype": PrototypeHead, "linear": LinearHead, "zero_shot": ZeroShotHead}
    assert type(classifier.head) is expected[head]
    assert [p.requires_grad for p in classifier.head.parameters()] == (
        [True, True] if head == "linear" else []
    )
    (tmp_path / "out").mkdir()
    made.save_head(classifier, tmp_path / "out")
    again = made.model(classifier.trunk, tmp_path / "out")
    assert torch.equal(again(batch.inputs), classifier(batch.inputs))


def test_zero_shot_is_what_clip_itself_computes(tmp_path: Path) -> None:
    folder = model("clip", tmp_path / "m")
    prompts = ["a photo of a {}", "a picture of {}"]
    made = bound(task(tmp_path, head="zero_shot", prompts=prompts[:1]), folder)
    batch = made.examples(Limits(train=0, validation=0)).test.collate([0, 1, 2])
    clip = transformers.CLIPModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        texts = tokenizer(
            [f"a photo of a {word}" for word in LABELS.values()], padding=True, return_tensors="pt"
        )
        expected = clip(
            input_ids=texts["input_ids"], attention_mask=texts["attention_mask"], **batch.inputs
        ).logits_per_image
        torch.testing.assert_close(made.model(made.load_trunk())(batch.inputs), expected)

    two = bound(task(tmp_path, head="zero_shot", prompts=prompts, scale=5.0), folder)
    head = two.model(two.load_trunk()).head
    assert isinstance(head, ZeroShotHead)
    assert head.scale == 5.0
    assert not torch.equal(head.label_embeddings, made.model(made.load_trunk()).head.label_embeddings)


def test_prototypes_are_the_means_of_the_bases_features(tmp_path: Path) -> None:
    made = bound(task(tmp_path, head="prototype", prototype_images=1000), model("vit", tmp_path / "m"))
    trunk = made.load_trunk()
    head = made.model(trunk).head
    examples = made.examples(Limits()).train
    batch = examples.collate(list(range(len(examples))))
    with torch.no_grad():
        features = trunk(**batch.inputs).last_hidden_state[:, 0]  # the pooler of a ViT is for something else
    means = torch.stack([features[batch.labels == label].mean(0) for label in range(3)])
    centre = means.mean(0)
    torch.testing.assert_close(head.centre, centre)
    torch.testing.assert_close(head.prototypes, functional.normalize(means - centre, dim=-1))
    one = bound(task(tmp_path, head="prototype", centred=False), tmp_path / "m")
    assert not one.model(trunk).head.centre.any()
    assert trunk.training is False


def test_prototypes_tell_the_images_apart(tmp_path: Path) -> None:
    made = bound(task(tmp_path, head="prototype"), model("dinov2", tmp_path / "m"))
    score = made.score(made.model(made.load_trunk()), made.examples(Limits()).test)
    assert score.value > 0.6
    assert score.examples == 30


def test_the_head_of_the_base_is_taken(tmp_path: Path) -> None:
    """So an experiment's base, which is a tower, starts every expert with the head that CLIP made."""
    folder, mapping = model("clip", tmp_path / "m"), task(tmp_path, head="zero_shot")
    made = bound(mapping, folder)
    first = made.model(made.load_trunk())
    base = tmp_path / "base"
    base.mkdir()
    shutil.copy(folder / "preprocessor_config.json", base)
    first.trunk.save_pretrained(base)
    with pytest.raises(UserError, match=r"give text_model: the whole model"):
        bound(mapping, base)
    assert torch.equal(
        bound(mapping | {"text_model": str(folder)}, base).model(first.trunk).head.label_embeddings,
        first.head.label_embeddings,
    )
    made.save_head(first, base)
    made = bound(mapping, base)
    head = made.model(made.load_trunk()).head
    assert torch.equal(head.label_embeddings, first.head.label_embeddings)
    assert torch.equal(head.projection, first.head.projection)


@pytest.mark.parametrize("kind", ["vit", "clip", "dinov2", "convnext"])
def test_another_size_of_images(kind: str, tmp_path: Path) -> None:
    made = bound(task(tmp_path, image_size=56), model(kind, tmp_path / "m"))
    batch = made.examples(Limits(train=2, validation=2)).train.collate([0, 1])
    assert batch.inputs["pixel_values"].shape == (2, 3, 56, 56)
    assert made.model(made.load_trunk())(batch.inputs).shape == (2, 3)
    assert made.facts()["pixels"] == "56 x 56"


def test_variations_depend_on_step_seed_and_image_alone(tmp_path: Path) -> None:
    folder = model("vit", tmp_path / "m")
    plain = bound(task(tmp_path), folder).examples(Limits()).train
    varied = bound(task(tmp_path, flip=True, crop=0.5), folder).examples(Limits()).train

    def pixels(examples: tasks.Examples, indices: list[int], step: int, seed: int = 0) -> torch.Tensor:
        return examples.training_batch(indices, step, seed).inputs["pixel_values"]

    assert torch.equal(pixels(plain, [0, 1], 3), plain.collate([0, 1]).inputs["pixel_values"])
    assert torch.equal(varied.collate([0, 1]).inputs["pixel_values"], pixels(plain, [0, 1], 3))
    first = pixels(varied, [0, 1], 3)
    assert torch.equal(first, pixels(varied, [0, 1], 3))
    assert torch.equal(
        first[1], pixels(varied, [1, 5], 3)[0]
    )  # whoever else is in the batch, or on which device
    assert not torch.equal(first, pixels(varied, [0, 1], 4))
    assert not torch.equal(first, pixels(varied, [0, 1], 3, seed=1))

    flipped = bound(task(tmp_path, flip=True), folder).examples(Limits()).train
    whole = plain.collate([0]).inputs["pixel_values"]
    seen = [pixels(flipped, [0], step) for step in range(20)]
    assert {torch.equal(one, whole) for one in seen} == {True, False}
    assert all(torch.equal(one, whole) or torch.equal(one, whole.flip(-1)) for one in seen)


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_part_has_the_share_of_the_area_that_was_asked_for(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = []

    def resized(image: Image.Image, size: Any, *_: Any, box: tuple[float, ...]) -> Image.Image:
        left, top, right, bottom = box
        assert min(left, top) >= 0
        assert max(right / 40, bottom / 30) <= 1 + 1e-9
        parts.append((right - left) * (bottom - top) / (40 * 30))
        return image

    monkeypatch.setattr(Image.Image, "resize", resized)
    for seed in range(300):
        Variation(crop=share)(np.zeros((3, 30, 40), dtype=np.uint8), random.Random(seed))
    assert share - 1e-9 <= min(parts) < share + 0.05 < 0.97 < max(parts)


def test_each_image_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bound(task(tmp_path), model("vit", tmp_path / "m"))
    splits = made.examples(Limits())
    monkeypatch.setattr("saft.tasks.image_source.Picture.rgb", None)
    again = made.examples(Limits(train=10, seed=3))
    for examples in (splits.train, splits.test, again.train):
        examples.collate([0, 1])
    monkeypatch.undo()
    monkeypatch.setattr("saft.tasks.image_examples.KEPT", 0)  # what does not fit is decoded when it is needed
    few = bound(task(tmp_path), tmp_path / "m").examples(Limits()).test
    expected = splits.test.collate([0]).inputs["pixel_values"]
    assert torch.equal(few.collate([0]).inputs["pixel_values"], expected)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"labels": {"0": "dark"}}, "labels: a classification needs at least 2"),
        ({"labels": LABELS | {"3": "dotted"}}, "t.labels: no row has the label '3'"),
        (
            {"labels": {"0": "dark", "1": "bright"}},
            "t.labels: 1 label(s) of the data are not in the list: '2'",
        ),
        ({"image_size": 30}, "t.image_size: 30 is not a multiple of 14, the side of the patches of"),
        ({"image_size": 0}, "image_size: must be at least 1"),
        ({"crop": 0}, "crop: must be in (0, 1]"),
        ({"head": "prototypes"}, "head: unknown value 'prototypes'; did you mean 'prototype'"),
        ({"head": "zero_shot", "prompts": ["x"]}, "prompts: each must hold {}"),
        ({"pooling": "cls"}, "pooling: unknown value 'cls'"),
    ],
)
def test_mistakes_are_told_before_training(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder, mapping = model("vit", tmp_path / "m"), task(tmp_path) | keys
    with pytest.raises(UserError) as caught:
        bound(mapping, folder).examples(Limits())
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


def test_models_that_do_not_suit_are_told(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(
        UserError, match=r"t.kind: image_classification needs a model of images, which .* is not"
    ):
        bound(task(tmp_path), tiny_model)
    (both := tmp_path / "b").mkdir()
    (both / "config.json").write_text(json.dumps({"model_type": "blip", "vision_config": {}}))
    with pytest.raises(UserError, match=r"which .* is not; transformers loads its tower of images only with"):
        bound(task(tmp_path), both)
    folder = model("vit", tmp_path / "m")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"holds no image processor \(preprocessor_config.json or"):
        bound(task(tmp_path), folder)
    folder = model("clip", tmp_path / "c")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_center_crop": False}))
    with pytest.raises(UserError, match=r"makes images of different sizes, \[28, 37\] and \[37, 28\]"):
        bound(task(tmp_path), folder)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("ViTMAE", r"t.kind: ViTMAEModel sees other parts of an image each time, .*: transformers.ViTModel"),
        (
            "Siglip2Vision",
            r"t.kind: Siglip2VisionModel takes pixel_attention_mask, spatial_shapes beside the",
        ),
    ],
)
def test_models_that_do_not_see_a_whole_image_are_told(kind: str, message: str, tmp_path: Path) -> None:
    """A masked autoencoder scored otherwise in each call; SigLIP 2 of any shape ended in a traceback."""
    settings = getattr(transformers, f"{kind}Config")(**SEEING | {"num_patches": 4})
    getattr(transformers, f"{kind}Model")(settings).save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        model_of(bound(task(tmp_path), tmp_path))


def test_an_image_that_cannot_be_read_is_told_before_training(tmp_path: Path) -> None:
    folder = model("vit", tmp_path / "m")
    for label, value in (("dark", 0), ("bright", 255)):
        (tmp_path / "d" / label).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full((9, 9), value, np.uint8)).save(tmp_path / "d" / label / f"{number}.png")
    (tmp_path / "d" / "dark" / "2.png").write_bytes(b"\x89PNG no more")
    mapping = {
        "model": {"path": str(folder)},
        "task": {
            "kind": "image_classification",
            "data": {"path": "folder", "files": {"train": str(tmp_path / "d")}, "test": None},
            "labels": {"dark": "dark", "bright": "bright"},
        },
        "out": str(tmp_path / "out"),
        "training": {"steps": 1, "batch_size": 2},
    }
    with pytest.raises(UserError, match=r"task.data: .*/d/dark/2.png: is not an image that can be read"):
        saft.train(saft.config.parse(saft.TrainConfig, mapping, "test"))
    assert not (tmp_path / "out").exists()
