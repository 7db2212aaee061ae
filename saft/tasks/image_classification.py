"""Image classification: labelled images, a zero-shot, prototype or linear head, accuracy or macro F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from saft import config
from saft.config import Count, Fraction, Positive
from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.tasks import TASKS, heads
from saft.tasks.bound_with_head import BoundWithHead
from saft.tasks.classification import (
    METRICS,
    check_labels_and_prompts,
    descriptions,
    embedding_of_each,
    outcomes,
)
from saft.tasks.examples import Batch, Examples, permutation
from saft.tasks.heads import LinearHead, PrototypeHead, StoredHead, ZeroShotHead
from saft.tasks.image_examples import Pixels, Variation, image_examples
from saft.tasks.image_model import ImageClassifier, ImagePooling, TextTower, Vision
from saft.tasks.image_processor import load_preprocessing
from saft.tasks.image_source import ImageSource, Labelled, pictures
from saft.tasks.labels import labelled_splits
from saft.tasks.metric import Metric
from saft.tasks.outcomes import Outcomes
from saft.tasks.task import Task, TaskModel, first_tried

__all__ = ["BoundImageClassification", "ImageClassification"]

_BATCH = 64  # images of a forward pass for prototypes


@TASKS.register("image_classification")
@config.checked
@dataclass(frozen=True)
class ImageClassification(Task):
    """Assign one of a list of labels to an image. Of CLIP and its like the tower for images is the trunk."""

    data: ImageSource
    """The labelled images."""
    labels: dict[str, str]
    """Label in the data -> its words in a prompt; the order is the order of the logits."""
    head: Literal["zero_shot", "prototype", "linear"] = "linear"
    """zero_shot: frozen, made from the prompts by the text tower. prototype: frozen, made by the base of
    some training images of each label. linear: trained with the trunk."""
    prompts: list[str] = field(default_factory=lambda: ["a photo of a {}."])
    """Descriptions of a label, with {} for its words; a label's embedding is the mean over them."""
    text_model: str | None = None
    """The model whose text tower makes the zero-shot head; null takes the one that is trained."""
    prototype_images: Count = 50
    """Training images of each label that make the prototype head; all where there are fewer."""
    centred: bool = True
    """Subtract the mean of the prototypes from features and prototypes."""
    scale: Positive | None = None
    """Inverse temperature of a frozen head's cosines; null takes the model's own (100) for zero-shot heads,
    20 for prototypes."""
    image_size: Count | None = None
    """Side of the squares that the model sees; null takes that of its image processor."""
    pooling: ImagePooling | None = None
    """How features become one vector per image: pooler, first (token) or mean; null takes what the model
    pools itself, of a ViT the first token."""
    flip: bool = False
    """Mirror every other training image, left to right."""
    crop: Fraction = 1.0
    """Train on random parts of the images, of at least this share of their area; 1 takes them whole."""
    metric_name: Literal["accuracy", "macro_f1"] = "accuracy"
    """What is measured on validation and test."""
    drop_other_labels: bool = False
    """Leave out images whose label is not in `labels`, instead of refusing them."""

    def __post_init__(self) -> None:
        check_labels_and_prompts(self.labels, self.head, self.prompts)

    @property
    def trained_head(self) -> Mapping[str, Sequence[int]]:
        """A linear head; the others are frozen."""
        return LinearHead.shapes(len(self.labels)) if self.head == "linear" else {}

    def bind(
        self, name: str, model: ModelConfig, where: str, device: str | torch.device = "cpu"
    ) -> BoundImageClassification:
        """Bind the task to a model of images: load its image processor, check that there is a text tower.

        Raises:
            UserError: the model does not see images, its processor is missing, it has no text tower for a
                zero-shot head, or the images' size does not fit its patches.
        """
        vision = Vision.of(model.path, where)
        made = load_preprocessing(model.path, self.image_size, where)
        for side in {made.height, made.width}:
            if side % vision.patch_size:
                near = max(1, round(side / vision.patch_size)) * vision.patch_size
                raise UserError(
                    f"{where}.image_size: {side} is not a multiple of {vision.patch_size}, the side of the "
                    f"patches of {model.path}; {near} is"
                )
        bound = BoundImageClassification(
            self, name, model, where, torch.device(device), vision, Pixels(made, where)
        )
        if self.head == "zero_shot" and bound.stored_head(model.path) is None:
            TextTower.check(self.text_model or model.path, where)
        return bound

    def rows(self, where: str) -> dict[str, Labelled]:
        """Return the images and labels of each split."""
        return labelled_splits(
            pictures(self.data, where), self.data, list(self.labels), self.drop_other_labels, where
        )


@dataclass(frozen=True)
class BoundImageClassification(BoundWithHead[ImageClassification]):
    """Image classification with one model; see `saft.tasks.task.BoundTask`.

    Args:
        vision: how the model sees.
        pixels: decodes images for it, and keeps them.
    """

    trunk_kind = "a reader of images"
    vision: Vision
    pixels: Pixels

    @property
    def metric(self) -> Metric:
        """Accuracy, the share of correct examples, or macro F1; printed in percent."""
        return METRICS[self.task.metric_name]

    @property
    def outputs(self) -> list[str]:
        """The labels."""
        return list(self.task.labels)

    @property
    def _loaded_as(self) -> Any:
        """The class of what gives features of images: of CLIP, its tower for them."""
        return self.vision.kind

    def loss(self, model: TaskModel, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of a batch, in nats."""
        return functional.cross_entropy(model(batch.inputs), batch.labels)

    def outcomes(self, model: TaskModel, examples: Examples, batch_size: int = 64) -> Outcomes:
        """Return what is right, or prediction and label of each example; see `saft.tasks.classification`."""
        return outcomes(model, examples, len(self.task.labels), self.task.metric_name, batch_size)

    def facts(self) -> dict[str, Any]:
        """Return the head, the number of labels, and the size of what the model sees."""
        made = self.pixels.preprocessing
        return {
            "head": self.task.head,
            "labels": len(self.task.labels),
            "pixels": f"{made.width} x {made.height}",
        }

    def _examples(self, rows: Labelled, training: bool) -> Examples:
        vary = Variation(self.task.flip, self.task.crop) if training else None
        return image_examples(rows, list(self.task.labels), self.pixels, vary)

    def _headless(self, trunk: nn.Module, stored: StoredHead | None = None) -> ImageClassifier:
        made, size = self.pixels.preprocessing, self.vision.image_size
        other = size is not None and (made.height, made.width) != (size, size)
        return ImageClassifier(trunk, nn.Identity(), self.task.pooling, other and self.vision.interpolates)

    def _check_first_head(self, folder: Path) -> None:
        """Refuse to replace a trained head; say that another one is made by weights that were changed."""
        if self.task.head == "linear":
            raise heads.missing_trained_head(folder, self.name)
        if self.task.head == "prototype":
            heads.note_made_anew(folder, self.name, "prototype")

    def _first_head(self, model: TaskModel) -> nn.Module:
        """Return the frozen head that the model holds already, or make one; or a linear one at zero.

        Raises:
            UserError: the model sees an image in another way each time.
        """
        made = self.pixels.preprocessing
        shades = torch.linspace(-1, 1, made.height * made.width).reshape(made.height, made.width)
        once, again = self._features(model, shades.expand(2, made.channels, -1, -1))
        if not torch.allclose(once, again, rtol=1e-4, atol=1e-5, equal_nan=True):
            name = type(model.trunk).__name__
            raise UserError(
                f"{self.where}.kind: {name} sees other parts of an image each time, as in its pretraining; "
                f"save it as one that sees all of it: transformers.{name.replace('MAE', '')}.from_pretrained"
                f"('{self.base.path}')"
            )
        if self.task.head == "linear":
            return LinearHead(len(once), len(self.task.labels))
        if (stored := self.stored_head(self.base.path)) is not None:
            return stored.module
        if self.task.head == "zero_shot":
            return self._zero_shot()
        means = self._means(model)
        return PrototypeHead(means, self.task.scale or 20.0, self.task.centred)

    def _zero_shot(self) -> nn.Module:
        tower = TextTower.load(self.task.text_model or self.base.path, self.where)
        embedded = [tower.embedded(texts) for texts in descriptions(self.task.prompts, self.task.labels)]
        scale = self.task.scale or tower.scale
        of_each = embedding_of_each(self.task.labels, embedded, self.where)
        return ZeroShotHead(of_each, scale, tower.projection(self.where))

    def _means(self, model: TaskModel) -> Tensor:
        """Return the mean features of some training images of each label, [labels, width]."""
        train = self.task.rows(self.where)["train"]
        order = [train[index] for index in permutation(len(train), self.task.data.split_seed, stream=3)]
        means = []
        for label in self.task.labels:
            chosen = [picture for picture, own in order if own == label][: self.task.prototype_images]
            if not chosen:
                raise UserError(
                    f"{self.where}.labels: no training image has the label '{label}', so it has no prototype"
                )
            self.pixels.read(chosen)
            parts = [chosen[start : start + _BATCH] for start in range(0, len(chosen), _BATCH)]
            features = [self._features(model, self.pixels.batch(part)) for part in parts]
            means.append(torch.cat(features).mean(0))
        return torch.stack(means)

    @torch.no_grad()
    def _features(self, model: TaskModel, images: Tensor) -> Tensor:
        """Return the features of images, without dropout, on the CPU."""
        training = model.trunk.training
        model.trunk.eval()
        with first_tried(model.trunk, self.where):
            features = model.features({"pixel_values": images.to(next(model.trunk.parameters()).device)})
        model.trunk.train(training)
        return features.cpu()
