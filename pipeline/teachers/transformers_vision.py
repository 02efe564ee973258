"""Image models of transformers, such as ViT, DINOv2 and the image towers of CLIP and SigLIP, with their processors."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
import transformers
from PIL import Image
from pydantic import Field, StringConstraints, model_validator
from torch import Tensor, nn

from pipeline import images, params, pretrained
from pipeline.errors import UserError, count
from pipeline.pretrained.transformers import PretrainedClassifier, fetch, one_line, quiet
from pipeline.provenance import digest_of
from pipeline.teachers import Precision
from pipeline.teachers._configuration import plain
from pipeline.teachers._images import ImageTeacher
from pipeline.teachers._logits import check_top, largest

VERSION = 1
"""Increased whenever this file gives other features for the same recipe."""

Pooling = Literal["pooler", "cls", "mean"]
Head = (
    Literal["pooled", "projected", "cls", "tokens", "logits"]
    | Annotated[str, StringConstraints(pattern="^layer:[1-9][0-9]*$")]
)
LAYER = "layer:"

POOLERS = ("pooler.", "head.")
"""Layers on top of the states that many checkpoints lack; such a model is pooled without them."""


class Settings(params.Settings):
    """Keys of a teacher of this family.

    Attributes:
        model: a hub name, a local folder, or a folder inside an installed package as `package:NAME/FOLDER`. For a model
            of images and texts, such as CLIP, the image tower is used.
        revision: branch, tag or commit on the hub; only a commit fixes the weights.
        pooling: how the head `pooled` is computed: by the model's own `pooler`, from the class token (`cls`), or as the
            `mean` over the positions other than class and register tokens. If None, the first of these that the weights
            have.
        heads: which to keep; `projected` is the image's embedding in the space that it shares with texts; `tokens` are
            the states of all positions, class and register tokens first; `layer:N` the mean after layer N, counted from
            1, over the positions other than class and register tokens; `logits` the outputs of a model that was trained
            for classification.
        top: of the head `logits`, keep this many of the largest with their classes, and the logsumexp of the others;
            all if None.
    """

    model: str
    revision: str | None = None
    pooling: Pooling | None = None
    heads: tuple[Head, ...] = Field(default=("pooled",), min_length=1, strict=False)
    top: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _only_logits_have_a_top(self) -> "Settings":
        check_top(self.top, self.heads)
        return self


def load(settings: Settings, precision: Precision, device: torch.device) -> "ImageTower":
    """The teacher, ready on a device.

    Raises:
        UserError: the model is missing and cannot be fetched, is not a model of images, lacks tensors, cannot take the
            images of its processor, or has no such head or pooling.
    """
    name, folder = settings.model, fetch(settings.model, settings.revision)
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            model, found = _class(config).from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype="auto", output_loading_info=True
            )
            processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # damaged files fail in many ways
        raise UserError(f"{name}: cannot load it: {one_line(error)}") from None
    tower = getattr(model, "vision_model", model)
    projection = getattr(model, "visual_projection", None)
    lacking = _lacking(model, tower, projection, found["missing_keys"])
    if missing := [key for key in lacking if not key.startswith(POOLERS)]:
        raise UserError(
            f"{name}: its weights lack {len(missing)} of the model's {count(len(tower.state_dict()), 'tensor')}, such "
            f"as {min(missing)!r}; are their names those of transformers?"
        )
    state = {key: value for key, value in tower.state_dict().items() if key not in lacking}
    if projection is not None:
        state |= {f"visual_projection.{key}": value for key, value in projection.state_dict().items()}
    vision = getattr(model.config, "vision_config", None) or model.config
    recipe = {
        "family": "transformers_vision",
        "version": VERSION,
        "decoder": images.VERSION,
        "architecture": type(tower).__name__,
        "config": digest_of(plain(vision.to_dict())),
        "weights": pretrained.digest(state),
        "processor": plain(processor.to_dict()),
        "precision": precision,
    }
    classifier = None
    if "logits" in settings.heads:
        if tower is not model:
            raise UserError(f"{name}: a model of images and texts has no head `logits`; remove it from `heads`")
        auto = transformers.AutoModelForImageClassification
        classifier = PretrainedClassifier(auto, folder, name, tower, use_safetensors=True)
    for part in (tower, projection, classifier):
        if part is not None:
            part.to(dtype=getattr(torch, precision), device=device).eval().requires_grad_(False)
    return ImageTower(tower, projection, classifier, processor, recipe, settings, vision, not lacking, device)


class ImageTower(ImageTeacher):
    """An image model of transformers. A transformed image is the output of its processor, [3, h, w], float32."""

    replicable = True

    def __init__(
        self,
        model: Any,
        projection: nn.Module | None,
        classifier: PretrainedClassifier | None,
        processor: Any,
        recipe: Mapping[str, Any],
        settings: Settings,
        config: Any,
        whole: bool,
        device: torch.device,
    ):
        self.model, self.projection, self.processor = model, projection, processor
        self.classifier = classifier
        self.device = device
        self.dtype = next(model.parameters()).dtype
        self.patch = getattr(config, "patch_size", None)
        self.numbers = [int(head.removeprefix(LAYER)) for head in settings.heads if head.startswith(LAYER)]
        try:
            blank = self.transform(Image.new("RGB", (64, 48)))
        except Exception as error:  # settings that lack something or do not fit fail in many ways
            raise UserError(f"{settings.model}: its image processor fails: {one_line(error)}") from None
        try:
            self._interpolates = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
            with torch.inference_mode():
                outputs, _ = self._run(torch.from_numpy(blank)[None].to(device, self.dtype))
        except Exception as error:  # each architecture checks its input in its own way
            raise UserError(
                f"{settings.model}: it cannot take the images of {blank.shape[1]} x {blank.shape[2]} that its "
                f"processor makes: {one_line(error)}"
            ) from None
        has: dict[Pooling, bool] = {
            "pooler": whole and outputs.get("pooler_output") is not None,
            "cls": self._prefix(outputs, blank.shape) > 0,
            "mean": True,
        }
        first = next(pooling for pooling, there in has.items() if there)
        self.pooling: Pooling = first if settings.pooling is None else settings.pooling
        if not has[self.pooling]:
            raise UserError(f"{settings.model}: its weights do not allow `pooling: {self.pooling}`; leave it out")
        if "cls" in settings.heads and not has["cls"]:
            raise UserError(f"{settings.model}: it has no class token, so it has no head `cls`")
        if "projected" in settings.heads and (projection is None or not has["pooler"]):
            raise UserError(
                f"{settings.model}: it has no projection, so it has no head `projected`; `pooled` is its embedding"
            )
        if self.numbers and max(self.numbers) > (depth := len(outputs.get("hidden_states") or ()) - 1):
            known = f"it has layers 1 to {depth}" if depth > 0 else "transformers does not give its layers"
            raise UserError(f"{settings.model}: {known}, so it has no head `{LAYER}{max(self.numbers)}`")
        self.recipe = {**recipe, "pooling": self.pooling}
        self.heads: Mapping[str, tuple[int, ...]] = dict.fromkeys(settings.heads, ())
        self.heads = {
            head: tuple(value.shape[1:])
            for head, value in self.forward({"pixels": torch.from_numpy(blank)[None].to(device)}).items()
        }
        if classifier is not None:
            self.head_recipes = {"logits": {"weights": pretrained.digest(classifier.state)}}
            self.largest, self.notes = largest(settings.model, self.heads, settings.top)

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """What the model's own processor makes of it: [3, h, w], float32."""
        pixels = self.processor(images=image.convert("RGB"), return_tensors="np")["pixel_values"][0]
        return np.ascontiguousarray(pixels, np.float32)

    @torch.inference_mode()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pooled, projected, cls, layers [n, d] and logits [n, c], float32; tokens [n, positions, d] as they come."""
        outputs, logits = self._run(batch["pixels"].to(self.dtype))
        states, prefix = _positions(outputs["last_hidden_state"]), self._prefix(outputs, batch["pixels"].shape[1:])
        found: dict[str, Tensor] = {}
        for head in self.heads:
            if head == "tokens":
                found[head] = states
            elif head == "logits":
                assert logits is not None
                found[head] = logits.float()
            elif head.startswith(LAYER):
                layer = _positions(outputs["hidden_states"][int(head.removeprefix(LAYER))])
                found[head] = layer[:, prefix:].float().mean(1)
            elif head == "projected":
                assert self.projection is not None
                found[head] = self.projection(outputs["pooler_output"]).float()
            elif head == "cls" or self.pooling == "cls":
                found[head] = states[:, 0].float()
            elif self.pooling == "pooler":
                found[head] = outputs["pooler_output"].flatten(1).float()
            else:
                found[head] = states[:, prefix:].float().mean(1)
        return found

    def _run(self, pixels: Tensor) -> tuple[Any, Tensor | None]:
        """What the model returns, and logits if they are kept."""
        # Positions are interpolated if the processor's images do not have the size that the model was trained with.
        options = {"interpolate_pos_encoding": True} if self._interpolates else {}
        options |= {"output_hidden_states": True} if self.numbers else {}
        if self.classifier is not None:
            result: tuple[Any, Tensor] = self.classifier(pixel_values=pixels, return_dict=True, **options)
            return result
        return self.model(pixel_values=pixels, return_dict=True, **options), None

    def _prefix(self, outputs: Any, shape: Sequence[int]) -> int:
        """The number of class and register tokens in front of the patches."""
        states = outputs["last_hidden_state"]
        if states.ndim != 3 or not isinstance(self.patch, int):
            return 0
        return max(0, int(states.shape[1]) - (shape[1] // self.patch) * (shape[2] // self.patch))


def _positions(states: Tensor) -> Tensor:
    """States [n, positions, d], from states or from a feature map."""
    return states if states.ndim == 3 else states.flatten(2).transpose(1, 2)


def _class(config: Any) -> Any:
    """The class to load a model with: the auto class, or the one of an image tower with its projection."""
    named = [name for name in config.architectures or () if name.endswith("VisionModelWithProjection")]
    return getattr(transformers, named[0]) if named and hasattr(transformers, named[0]) else transformers.AutoModel


def _lacking(model: Any, tower: Any, projection: Any, missing: Collection[str]) -> set[str]:
    """The names of the tensors that the weights lack, in the tower or of the projection."""
    if tower is model:
        return set(missing)
    found = {name.removeprefix("vision_model.") for name in missing if name.startswith("vision_model.")}
    return found | {name for name in missing if projection is not None and name.startswith("visual_projection.")}
