"""A trunk that sees images and a head; the tower of CLIP that sees, and the one that reads."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from saft.errors import UserError
from saft.files.checkpoint import model_config
from saft.files.locations import folder as local_folder
from saft.model_config import ModelConfig
from saft.models import load_trunk, vision_kind
from saft.tasks.task import TaskModel
from saft.tasks.tokenizer import load_tokenizer

__all__ = ["ImageClassifier", "ImagePooling", "TextTower", "Vision"]

ImagePooling = Literal["pooler", "first", "mean"]


class ImageClassifier(TaskModel):
    """A trunk that sees images, the pooling of its features, and a head.

    Args:
        trunk: a transformers model that takes `pixel_values`.
        head: maps [batch, width] to logits [batch, labels].
        pooling: "pooler", what the model itself gives as one vector; "first", the first token; "mean", over
            the tokens, or over the places of a map of features; None, what the model gives, unless that is a
            layer trained for something else, as in ViT, or there is none: then the first token.
        interpolate: let it fit its positions to images of another size than it was made for.
    """

    def __init__(
        self, trunk: nn.Module, head: nn.Module, pooling: ImagePooling | None, interpolate: bool
    ) -> None:
        super().__init__(trunk, head)
        self.pooling = pooling
        self.reads_first_token = pooling == "first"
        self._options = {"interpolate_pos_encoding": True} if interpolate else {}
        self._pooler_is_a_layer = hasattr(getattr(trunk, "pooler", None), "dense")

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return one vector per image, [batch, width]."""
        output = self.trunk(pixel_values=inputs["pixel_values"], **self._options)
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        own = self.pooling is None and not self._pooler_is_a_layer
        if pooled is not None and (own or self.pooling == "pooler"):
            return pooled.flatten(1)  # of convolutions [batch, width, 1, 1]
        hidden: Tensor = output.last_hidden_state
        if hidden.ndim == 4:
            return hidden.flatten(2).mean(2)
        return hidden.mean(1) if self.pooling == "mean" else hidden[:, 0]


@dataclass(frozen=True)
class Vision:
    """How a model sees.

    Args:
        kind: class of transformers that the trunk is loaded as: of CLIP, its tower for images.
        image_size: that its positions are for; None where it has none.
        patch_size: sides of images must be multiples of it; 1 for convolutions.
        interpolates: whether it must be told to fit its positions to another size.
    """

    kind: Any
    image_size: int | None
    patch_size: int
    interpolates: bool

    @classmethod
    def of(cls, path: str, where: str) -> Vision:
        """Return how the model at a path sees.

        Raises:
            UserError: it sees no images, or takes more than their pixels.
        """
        folder = local_folder(path, "model.path")
        kind = vision_kind(folder)
        if kind is None:
            cure = "kind: text_classification takes models of texts"
            if "vision_config" in model_config(folder):
                cure = "transformers loads its tower of images only with that of texts; take a CLIP or SigLIP"
            raise UserError(
                f"{where}.kind: image_classification needs a model of images, which {path} is not; {cure}"
            )
        takes = inspect.signature(kind.forward).parameters
        required = [
            name
            for name, given in takes.items()
            if given.default is given.empty and given.kind is given.POSITIONAL_OR_KEYWORD
        ]
        if further := [name for name in required if name not in ("self", "pixel_values")]:
            raise UserError(
                f"{where}.kind: {kind.__name__} takes {', '.join(further)} beside the pixels, for images of "
                "any shape, which image_classification does not give; take a model of one size instead"
            )
        settings = kind.config_class.from_pretrained(folder)
        size, patch = (getattr(settings, name, None) for name in ("image_size", "patch_size"))
        return cls(
            kind,
            size if isinstance(size, int) else None,
            patch if isinstance(patch, int) else 1,
            "interpolate_pos_encoding" in takes,
        )


@dataclass(frozen=True)
class TextTower:
    """The part of a model such as CLIP that reads.

    Args:
        model: the whole model.
        tokenizer: its own.
    """

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, path: str, where: str) -> TextTower:
        """Load the model at a path.

        Raises:
            UserError: it reads no texts beside seeing images.
        """
        cls.check(path, where)
        return cls(load_trunk(ModelConfig(path)), load_tokenizer(path))

    @staticmethod
    def check(path: str, where: str) -> None:
        """Check that a model reads texts beside seeing images.

        Args:
            path: a folder or a hub id.
            where: the place in front of the message.

        Raises:
            UserError: it does not.
        """
        folder = local_folder(path, "model.path")
        own = model_config(folder)
        if not ("text_config" in own and "vision_config" in own and vision_kind(folder)):
            raise UserError(
                f"{where}.head: zero_shot needs a model with a text tower, such as CLIP, and {path} has "
                "none; give text_model: the whole model, or head: prototype, or linear"
            )

    @property
    def scale(self) -> float:
        """The inverse temperature that the model was trained with; 100 where it keeps none."""
        logit_scale = getattr(self.model, "logit_scale", None)
        return 100.0 if logit_scale is None else float(logit_scale.detach().exp())

    def projection(self, where: str) -> Tensor | None:
        """Return what takes features of images to where those of texts are, [width, features].

        Raises:
            UserError: it is more than one matrix.
        """
        layer: Any = getattr(self.model, "visual_projection", None)
        if layer is None:
            return None
        if not isinstance(layer, nn.Linear) or "bias" in layer.state_dict():
            raise UserError(
                f"{where}.head: zero_shot needs a projection of images that is one matrix, but "
                f"{type(self.model).__name__} has {type(layer).__name__}; take head: prototype, or linear"
            )
        matrix: Tensor = layer.weight.detach().clone()
        return matrix

    @torch.no_grad()
    def embedded(self, texts: list[str]) -> Tensor:
        """Return one unit vector per text, [texts, width]."""
        settings = self.model.config.text_config
        longest = settings.max_position_embeddings
        padding = "max_length" if "siglip" in settings.model_type else True  # as it was trained
        batch = self.tokenizer(
            texts, padding=padding, truncation=True, max_length=longest, return_tensors="pt"
        )
        taken = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
        features = self.model.get_text_features(**taken)
        return functional.normalize(getattr(features, "pooler_output", features), dim=-1)
