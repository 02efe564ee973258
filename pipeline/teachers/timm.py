"""Image models of timm: pooled features before the classifier, the classifier's logits, or the whole feature map."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from PIL import Image
from pydantic import Field
from timm.data import create_transform, resolve_model_data_config
from timm.models import load_state_dict
from torch import Tensor, nn

from pipeline import images, params, pretrained
from pipeline.errors import UserError
from pipeline.teachers import Precision, Teacher
from pipeline.timm_models import check_name, size_options

VERSION = 1
"""Raised whenever this file gives other features for the same recipe."""

Head = Literal["pooled", "tokens", "logits"]


OUTSIDE = ("hf-hub:", "local-dir:")
"""What the name of a model begins with if timm is to look for it outside its own list."""


class Settings(params.Settings):
    """Keys of a teacher of this family.

    Attributes:
        model: timm's name of the architecture, with the tag of its weights if there are several; or a repository,
            `hf-hub:OWNER/NAME@REVISION`; or a folder in timm's format, `local-dir:PATH`.
        weights: `pretrained`, from the hub; or a file, .safetensors or .pth, also as `package:NAME/FILE` inside an
            installed package. A .pth file may hold tensors only.
        size: height and width of the input; the model's own if None.
        heads: which to keep; `tokens` is the feature map before pooling, one row a position, with class and register
            tokens first where there are any.
    """

    model: str
    weights: str = "pretrained"
    size: int | None = Field(default=None, ge=8)
    heads: tuple[Head, ...] = Field(default=("pooled",), min_length=1, strict=False)


def load(settings: Settings, precision: Precision, device: torch.device) -> "ImageModel":
    """The teacher, ready on a device.

    Raises:
        UserError: timm has no such model, its weights are missing or do not fit, or it has no such head or size.
    """
    if not settings.model.startswith(OUTSIDE):
        check_name(settings.model)
    model, overrides = _pretrained(settings) if settings.weights == "pretrained" else _from_file(settings)
    model = model.eval().requires_grad_(False)
    config = resolve_model_data_config(model)
    if settings.size is not None:
        config["input_size"] = (3, settings.size, settings.size)
    config |= overrides
    if "logits" in settings.heads and not model.num_classes:
        raise UserError(f"{settings.model}: its weights have no classifier, so no head `logits`")
    recipe = {
        "family": "timm",
        "version": VERSION,
        "decoder": images.VERSION,
        "architecture": model.pretrained_cfg["architecture"],
        "weights": pretrained.digest(model.state_dict()),
        "transform": {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()},
        "precision": precision,
    }
    return ImageModel(model, recipe, config, settings.heads, getattr(torch, precision), device)


class ImageModel(Teacher):
    """A timm model. A transformed image is its pixels [h, w, 3], uint8; they are normalised on the model's device."""

    kind: Literal["image"] = "image"
    uniform = True

    def __init__(
        self,
        model: Any,
        recipe: Mapping[str, Any],
        config: Mapping[str, Any],
        heads: Sequence[Head],
        dtype: torch.dtype,
        device: torch.device,
    ):
        self.recipe = recipe
        self.device = device
        self.dtype = dtype
        self.resize = create_transform(**config, is_training=False, use_prefetcher=True)
        _, height, width = config["input_size"]
        # (pixels / 255 - mean) / std as one product and one sum over lines of pixels [w * 3], which are long enough
        # for vector instructions where three channels are not: 4 times faster than by channel.
        mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
        self.scale = (1 / (255 * std)).repeat(width).to(device)
        self.shift = (-mean / std).repeat(width).to(device)
        _cast_body(model, torch.zeros(1, 3, height, width), dtype)
        self.model: Any = model.to(device, memory_format=torch.channels_last)
        self.heads: Mapping[str, tuple[int, ...]] = dict.fromkeys(heads, ())
        blank = torch.zeros(1, height, width, 3, dtype=torch.uint8, device=device)
        self.heads = {head: tuple(value.shape[1:]) for head, value in self.forward({"pixels": blank}).items()}

    def transform(self, content: str | bytes | Image.Image) -> np.ndarray:
        """Decode, resize and crop as the model was trained for."""
        assert not isinstance(content, str)
        image = images.decode(content) if isinstance(content, bytes) else content
        # A grey image is resized as one channel, for a third of the work, and copied to three: the same pixels.
        one = image.mode == "L" and self.recipe["transform"]["crop_mode"] != "border"
        pixels = self.resize(image if one else image.convert("RGB"))
        return pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()

    def cost(self, example: np.ndarray) -> int:
        """All images are of one size."""
        return 1

    def collate(self, examples: Sequence[np.ndarray]) -> Mapping[str, Tensor]:
        """Pixels [n, h, w, 3], uint8: a quarter of the bytes to move, and already in the order convolutions like."""
        return {"pixels": torch.from_numpy(np.stack(examples))}

    @torch.inference_mode()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pooled [n, d] and logits [n, c] from a float32 head; tokens [n, positions, d] in the model's precision."""
        lines = torch.addcmul(self.shift, batch["pixels"].flatten(2).float(), self.scale)
        pixels = lines.view(batch["pixels"].shape).permute(0, 3, 1, 2)
        features = self.model.forward_features(pixels.to(self.dtype))
        outputs: dict[str, Tensor] = {}
        for head in self.heads:
            if head == "tokens":
                outputs[head] = self._positions(features)
            else:
                outputs[head] = self.model.forward_head(features.float(), pre_logits=head == "pooled")
        return outputs

    def _positions(self, features: Tensor) -> Tensor:
        if features.ndim == 3:
            return features
        # Some models put channels last in their feature maps, and tell so in `output_fmt`.
        last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        return features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)


def _cast_body(model: Any, blank: Tensor, dtype: torch.dtype) -> None:
    """Cast what `forward_features` runs; the head, which pools, stays in float32."""
    called: set[nn.Module] = set()
    hooks = [module.register_forward_hook(lambda module, *_: called.add(module)) for module in model.modules()]
    with torch.inference_mode():
        model.forward_features(blank)
    for hook in hooks:
        hook.remove()
    for child in model.children():
        if any(module in called for module in child.modules()):
            child.to(dtype)
    for tensor in [*model.parameters(recurse=False), *model.buffers(recurse=False)]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _pretrained(settings: Settings) -> tuple[Any, dict[str, Any]]:
    try:
        options = size_options(settings.model, settings.size)
        return timm.create_model(settings.model, pretrained=True, **options), {}
    except UserError:
        raise
    except Exception as error:  # whatever stops a download: no network, no such name, no permission, no space
        line = " ".join(str(error).split())[:300]
        raise UserError(
            f"{settings.model}: its weights cannot be loaded: {line}; set `weights` to a file that is here"
        ) from None


def _from_file(settings: Settings) -> tuple[Any, dict[str, Any]]:
    """A model with the weights of a file, and the preprocessing that the file's origin implies."""
    path = pretrained.locate(settings.weights)
    state = _read(path)
    options = size_options(settings.model, settings.size)
    with torch.device("meta"):
        shape: Any = timm.create_model(settings.model, **options)
    overrides: dict[str, Any] = {}
    if "_conv_stem.weight" in state:
        state = _from_original(state, shape, path)
        overrides = ORIGINAL_NORMALISATION
    classes = _classes(state, shape)
    overlay = {"state_dict": state, "num_classes": classes}
    model: Any
    try:
        # timm's own reader: it knows the layouts of each architecture's first releases, and is strict.
        model = timm.create_model(
            settings.model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes, **options
        )
    except (RuntimeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not weights of {settings.model}: {_misfit(shape, state, error)}") from None
    return model, overrides


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # each format has errors of its own for a damaged file
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: no weights that can be read safely ({line}); save it as .safetensors") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: it holds more than tensors; save the model's state_dict")
    return state


def _classes(state: Mapping[str, Tensor], shape: Any) -> int:
    """How many classes the weights have: a teacher may have been tuned to a task of its own, or lost its classifier."""
    classifier = shape.pretrained_cfg.get("classifier")
    if not isinstance(classifier, str):
        return shape.num_classes
    if f"{classifier}.weight" in state:
        return len(state[f"{classifier}.weight"])
    lacking = shape.state_dict().keys() - state.keys()
    headless = lacking and all(name.startswith(f"{classifier}.") for name in lacking)
    return 0 if headless else shape.num_classes


def _misfit(shape: Any, state: Mapping[str, Tensor], error: Exception) -> str:
    """The first tensor that does not fit, in words."""
    expected = shape.state_dict()
    for name in state:
        if name not in expected:
            return f"it holds {name!r}, which the model has not"
        if state[name].shape != expected[name].shape:
            return f"{name!r} is {tuple(state[name].shape)}, the model's is {tuple(expected[name].shape)}"
    for name in expected:
        if name not in state:
            return f"it lacks {name!r}"
    return " ".join(str(error).split())[:200]


ORIGINAL_NORMALISATION = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
"""EfficientNet-Lite was trained on (pixels - 127) / 128; timm's configuration rounds that to 0.5 and 0.5."""

ORIGINAL_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Layers of an inverted bottleneck: their names in the TensorFlow release and its PyTorch ports, and in timm."""

ORIGINAL_FIRST_BLOCKS = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""The same in a block that does not expand."""

ORIGINAL_ENDS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def _from_original(state: Mapping[str, Tensor], shape: Any, path: Path) -> dict[str, Tensor]:
    """EfficientNet weights under the names of the TensorFlow release, renamed to timm's.

    The original numbers all blocks in a row, timm numbers them within stages. Squeeze-and-excitation is not covered:
    the Lite models have none.
    """
    architecture = type(shape).__name__
    if architecture != "EfficientNet":
        raise UserError(f"{path}: these are weights of an EfficientNet, and the model is a {architecture}")
    places = [(stage, block) for stage, blocks in enumerate(shape.blocks) for block in range(len(blocks))]
    renamed = {}
    for name, tensor in state.items():
        try:
            if name.startswith("_blocks."):
                _, number, layer, leaf = name.split(".")
                stage, block = places[int(number)]
                expands = f"_blocks.{number}._expand_conv.weight" in state
                layers = ORIGINAL_BLOCKS if expands else ORIGINAL_FIRST_BLOCKS
                renamed[f"blocks.{stage}.{block}.{layers[layer]}.{leaf}"] = tensor
            else:
                layer, leaf = name.split(".")
                renamed[f"{ORIGINAL_ENDS[layer]}.{leaf}"] = tensor
        except (KeyError, IndexError, ValueError):
            raise UserError(f"{path}: {name!r} has no place in this architecture; another model's weights?") from None
    return renamed
