"""Image models of timm: pooled features before the classifier, layers, whole feature maps, or logits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, StringConstraints, model_validator
from timm.data import create_transform
from torch import Tensor, nn
from torchvision.transforms import CenterCrop, Resize

from pipeline import images, params, pretrained
from pipeline.errors import UserError
from pipeline.pretrained.timm import TimmModel, arguments, data_configuration
from pipeline.teachers import Precision
from pipeline.teachers._images import ImageTeacher, resized_centre, rgb
from pipeline.teachers._logits import check_top, largest

VERSION = 1
"""Increased whenever this file gives other features for the same recipe."""

Head = Literal["pooled", "cls", "tokens", "logits"] | Annotated[str, StringConstraints(pattern="^layer:[1-9][0-9]*$")]

COSTLY = 4.0
"""A model's own size is pointed out if it has this many times the pixels of 224 x 224."""

CLOSE = 0.99
"""A precision is pointed out if the cosine of a feature with the one in float32 is below this."""


class Settings(params.Settings):
    """Keys of a teacher of this family.

    Attributes:
        model: timm's name of the architecture, with the tag of its weights if there are several; or a repository,
            `hf-hub:OWNER/NAME@REVISION`; or a folder in timm's format, `local-dir:PATH`.
        weights: `pretrained`, from the hub or the model's folder; or a file, .safetensors or .pth, also as
            `package:NAME/FILE` inside an installed package. A .pth file may hold tensors only. A config.json of timm
            next to the file is used.
        size: height and width of the input; the model's own if None.
        heads: which to keep. `cls` is the class token; `tokens` the feature map before pooling, one row per position,
            with any class and register tokens first; `layer:N` the mean over the positions of the map after block or
            stage N, from 1.
        top: of the head `logits`, keep this many of the largest with their classes, and the logsumexp of the others;
            all if None.
    """

    model: str
    weights: str = "pretrained"
    size: int | None = Field(default=None, ge=8)
    heads: tuple[Head, ...] = Field(default=("pooled",), min_length=1, strict=False)
    top: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _only_logits_have_a_top(self) -> "Settings":
        check_top(self.top, self.heads)
        return self


def load(settings: Settings, precision: Precision, device: torch.device) -> "ImageModel":
    """The teacher, ready on a device.

    Raises:
        UserError: timm has no such model, its weights are missing or do not fit, or it has no such head or size.
    """
    source = TimmModel.find(settings.model, None if settings.weights == "pretrained" else settings.weights)
    options = source.options(settings.size)
    model, notes = source.load(**options)
    model = model.eval().requires_grad_(False)
    config = data_configuration(model, settings.model)
    if settings.size is not None:
        config["input_size"] = (config["input_size"][0], settings.size, settings.size)
    elif (cost := config["input_size"][1] * config["input_size"][2] / 224**2) >= COSTLY:
        height, width = config["input_size"][1:]
        notes += (
            f"its own size of {height} x {width} has {cost:.1f} times the pixels of 224 x 224; `size` sets another",
        )
    recipe = {
        "family": "timm",
        "version": VERSION,
        "decoder": images.VERSION,
        "architecture": model.pretrained_cfg["architecture"],
        "arguments": arguments(model),
        "weights": pretrained.digest(model.state_dict()),
        "transform": {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()},
        "precision": precision,
    }
    return ImageModel(model, recipe, config, settings, getattr(torch, precision), device, notes)


class ImageModel(ImageTeacher):
    """A timm model. A transformed image is its pixels [h, w, c], uint8; they are normalised on the model's device."""

    replicable = True

    def __init__(
        self,
        model: Any,
        recipe: Mapping[str, Any],
        config: Mapping[str, Any],
        settings: Settings,
        dtype: torch.dtype,
        device: torch.device,
        notes: Sequence[str] = (),
    ):
        self.recipe = recipe
        self.device = device
        self.dtype = dtype
        self.notes = tuple(notes)
        self.resize = _in_parts(create_transform(**config, is_training=False, use_prefetcher=True))
        self.channels, height, width = config["input_size"]
        # (pixels / 255 - mean) / std as one product and one sum over lines of pixels [w * c], which are long enough
        # for vector instructions where three channels are not: 4 times faster than by channel.
        mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
        self.scale = (1 / (255 * std)).repeat(width).to(device)
        self.shift = (-mean / std).repeat(width).to(device)
        self.model = model
        self.layers = sorted({int(head.removeprefix("layer:")) for head in settings.heads if head.startswith("layer:")})
        noise = torch.randn(1, self.channels, height, width, generator=torch.Generator().manual_seed(0))
        try:
            features, cosine = _cast_body(model, noise, dtype)
        except Exception as error:  # each architecture checks its input in its own way
            line = " ".join(str(error).split())[:200]
            raise UserError(f"{settings.model}: it cannot take images of {height} x {width}: {line}") from None
        if not cosine >= CLOSE:
            self.notes += (
                f"in {recipe['precision']} its feature of a test image is far from the one in float32 (cosine "
                f"{cosine:.3f}); `extract.precision: float32` is exact",
            )
        self._check_heads(settings, features, noise)
        self.model = model.to(device, memory_format=torch.channels_last)
        self.heads: Mapping[str, tuple[int, ...]] = dict.fromkeys(settings.heads, ())
        pixels = torch.zeros(1, height, width, self.channels, dtype=torch.uint8, device=device)
        self.heads = {head: tuple(value.shape[1:]) for head, value in self.forward({"pixels": pixels}).items()}
        self.largest, notes_of_logits = largest(settings.model, self.heads, settings.top)
        self.notes += notes_of_logits

    def _check_heads(self, settings: Settings, features: Any, image: Tensor) -> None:
        """Refuse heads that the model does not have."""
        name, heads = settings.model, settings.heads
        if "logits" in heads and not self.model.num_classes:
            raise UserError(f"{name}: its weights have no classifier, so it has no head `logits`")
        if "tokens" in heads and not (isinstance(features, Tensor) and features.ndim in (3, 4)):
            raise UserError(f"{name}: its features are not one map, so it has no head `tokens`")
        if "cls" in heads and not (isinstance(features, Tensor) and getattr(self.model, "cls_token", None) is not None):
            raise UserError(f"{name}: it has no class token, so it has no head `cls`")
        if not self.layers:
            return
        layers = len(getattr(self.model, "feature_info", ()))
        if not hasattr(self.model, "forward_intermediates") or not layers:
            raise UserError(f"{name}: timm does not give its layers, so it has no head `layer:{self.layers[-1]}`")
        if self.layers[-1] > layers:
            raise UserError(f"{name}: it has layers 1 to {layers}, so it has no head `layer:{self.layers[-1]}`")
        with torch.inference_mode():
            again, _ = self._features(image.to(self.dtype))
        if not _equal(features, again):
            raise UserError(
                f"{name}: its layers cannot be computed in one pass with the others; remove them from `heads`"
            )

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """Resize and crop as the model was trained for: [h, w, c], uint8.

        That is a quarter of the bytes to move, and already in the order that convolutions like.
        """
        if self.channels == 1:
            return self.resize(image.convert("L")).permute(1, 2, 0).numpy()
        # A grey image is resized as one channel, for a third of the work, and copied to three: the same pixels.
        one = image.mode == "L" and self.recipe["transform"]["crop_mode"] != "border"
        pixels = self.resize(image if one else rgb(image))
        return pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()

    @torch.inference_mode()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pooled [n, d] and logits [n, c] from a float32 head; tokens [n, positions, d] in the model's precision."""
        lines = torch.addcmul(self.shift, batch["pixels"].flatten(2).float(), self.scale)
        pixels = lines.view(batch["pixels"].shape).permute(0, 3, 1, 2)
        features, maps = self._features(pixels.to(self.dtype))
        outputs: dict[str, Tensor] = {}
        for head in self.heads:
            if head == "tokens":
                outputs[head] = self._positions(features)
            elif head == "cls":
                outputs[head] = features[:, 0].float()
            elif head.startswith("layer:"):
                outputs[head] = maps[int(head.removeprefix("layer:"))].float().mean((2, 3))
            else:
                outputs[head] = self.model.forward_head(_float(features), pre_logits=head == "pooled")
        return outputs

    def _features(self, pixels: Tensor) -> tuple[Any, dict[int, Tensor]]:
        """The input of the model's head, and the maps [n, d, h, w] after the requested layers."""
        if not self.layers:
            return self.model.forward_features(pixels), {}
        features, maps = self.model.forward_intermediates(
            pixels, indices=[layer - 1 for layer in self.layers], output_fmt="NCHW"
        )
        return features, dict(zip(self.layers, maps, strict=True))

    def _positions(self, features: Tensor) -> Tensor:
        if features.ndim == 3:
            return features
        # Some models have channels last in their feature maps; `output_fmt` says so.
        last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        return features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)


def _in_parts(transform: Any) -> Callable[[Image.Image], Any]:
    """timm's transform of images; where it resizes the shorter side and crops, as `resized_centre` does it."""
    resize, crop, *rest = transform.transforms
    if not (isinstance(resize, Resize) and isinstance(resize.size, int) and isinstance(crop, CenterCrop)):
        return transform
    shorter, size, how, (last,) = resize.size, crop.size, resize.interpolation, rest
    return lambda image: last(resized_centre(image, shorter, size, how))


def _float(features: Any) -> Any:
    """In float32: one tensor, or several, for models with several branches."""
    return features.float() if isinstance(features, Tensor) else [_float(part) for part in features]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and len(one) == len(other) and all(map(_equal, one, other))


def _cast_body(model: Any, image: Tensor, dtype: torch.dtype) -> tuple[Any, float]:
    """Cast everything that `forward_features` runs; the head, which pools, stays in float32.

    Returns:
        The features of an image after the cast, and the cosine of its pooled feature with that before the cast.
    """
    called: set[nn.Module] = set()
    hooks = [module.register_forward_hook(lambda module, *_: called.add(module)) for module in model.modules()]
    with torch.inference_mode():
        features = model.forward_features(image)
        for hook in hooks:
            hook.remove()
        if dtype == torch.float32:
            return features, 1.0
        before = model.forward_head(features, pre_logits=True)
    for child in model.children():
        if any(module in called for module in child.modules()):
            child.to(dtype)
    for tensor in [*model.parameters(recurse=False), *model.buffers(recurse=False)]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    with torch.inference_mode():
        features = model.forward_features(image.to(dtype))
        after = model.forward_head(_float(features), pre_logits=True)
    return features, float(torch.cosine_similarity(before.flatten(), after.flatten(), dim=0))
