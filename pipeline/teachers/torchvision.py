"""Image classifiers of torchvision: features before the classifier, layers by name, or logits."""

import difflib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from huggingface_hub.constants import HF_HUB_OFFLINE
from PIL import Image
from pydantic import Field, StringConstraints, model_validator
from torch import Tensor, nn
from torchvision import models

from pipeline import images, params, pretrained
from pipeline.errors import UserError, count, listed
from pipeline.provenance import digest_of
from pipeline.teachers import Precision
from pipeline.teachers._images import ImageTeacher, resized_centre, rgb
from pipeline.teachers._logits import check_top, largest

VERSION = 1
"""Increased whenever this file gives other features for the same recipe."""

Head = Literal["pooled", "logits"] | Annotated[str, StringConstraints(pattern=r"^layer:[A-Za-z0-9_.]+$")]

LAYER = "layer:"
AUXILIARY = ("aux1", "aux2", "AuxLogits")
"""Classifiers of GoogLeNet and Inception that are only used in training."""

COSTLY = 4.0
"""A model's own size is pointed out if it has this many times the pixels of 224 x 224."""


class Settings(params.Settings):
    """Keys of a teacher of this family.

    Attributes:
        model: the name of a classifier in `torchvision.models`, such as `resnet50`.
        weights: the name of its weights, such as `DEFAULT` or `IMAGENET1K_V1`, which are downloaded; or a file,
            .safetensors or .pth, also as `package:NAME/FILE` inside an installed package. A .pth file may hold tensors
            only.
        transforms: the name of the weights whose preprocessing is used; those of `weights`, or `DEFAULT` for a file.
        arguments: of the model's constructor, for weights in a file, such as `image_size`.
        heads: which to keep. `pooled` is the input of the last layer of the classifier; `layer:NAME` the output of a
            module, such as `layer:layer3` or `layer:features.4`, averaged over its positions.
        top: of the head `logits`, keep this many of the largest with their classes, and the logsumexp of the others;
            all if None.
    """

    model: str
    weights: str = "DEFAULT"
    transforms: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    heads: tuple[Head, ...] = Field(default=("pooled",), min_length=1, strict=False)
    top: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _only_logits_have_a_top(self) -> "Settings":
        check_top(self.top, self.heads)
        return self


def load(settings: Settings, precision: Precision, device: torch.device) -> "Classifier":
    """The teacher, ready on a device.

    Raises:
        UserError: there is no such model, weights, module or head, or the weights cannot be loaded or do not fit.
    """
    name, known = settings.model, models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3) or known[:3]
        raise UserError(f"torchvision has no classifier {name!r}; the nearest names are {listed(close)}")
    of_model = models.get_model_weights(name)
    named = _member(of_model, settings.weights)
    if named is None:
        model, transforms = _from_file(settings), settings.transforms or "DEFAULT"
    else:
        if settings.arguments:
            raise UserError(f"{name}: `arguments` are for weights in a file, and {named.name} has its own; remove them")
        model, transforms = _downloaded(settings, named), settings.transforms or named.name
    preprocessing = _member(of_model, transforms)
    if preprocessing is None:
        raise UserError(f"{name}: transforms: {transforms!r}: its weights are {listed([*of_model.__members__])}")
    model = model.eval().requires_grad_(False)
    preset = preprocessing.value.transforms()
    recipe = {
        "family": "torchvision",
        "version": VERSION,
        "decoder": images.VERSION,
        "architecture": name,
        "arguments": digest_of(settings.arguments),
        "weights": pretrained.digest(model.state_dict()),
        "transform": {
            "resize": preset.resize_size[0],
            "crop": preset.crop_size[0],
            "interpolation": preset.interpolation.value,
            "mean": preset.mean,
            "std": preset.std,
        },
        "precision": precision,
    }
    # Of GoogLeNet and Inception, weights by name have it on.
    if hasattr(model, "transform_input"):
        recipe["transform_input"] = bool(model.transform_input)
    return Classifier(model.to(getattr(torch, precision)), preset, recipe, settings, device)


class Classifier(ImageTeacher):
    """A model of torchvision. A transformed image is its pixels [3, h, w], uint8, normalised on the device."""

    replicable = True

    def __init__(
        self, model: nn.Module, preset: Any, recipe: Mapping[str, Any], settings: Settings, device: torch.device
    ):
        self.model, self.preset, self.recipe, self.device = model.to(device), preset, recipe, device
        self.name, self.dtype = settings.model, next(model.parameters()).dtype
        self.mean, self.std = (
            torch.tensor(values, device=device).view(3, 1, 1) for values in (preset.mean, preset.std)
        )
        modules = dict(model.named_modules())
        # Of the heads that are inside the model, the modules.
        last = last_layer(model)
        self.inside = {"pooled": modules[last]} if "pooled" in settings.heads else {}
        if "logits" in settings.heads and isinstance(modules[last], NoClassifier):
            raise UserError(f"{self.name}: its weights have no classifier, so it has no head `logits`")
        for head in settings.heads:
            if head.startswith(LAYER):
                layer = head.removeprefix(LAYER)
                if layer not in modules:
                    close = (
                        difflib.get_close_matches(layer, modules, n=3)
                        or [at for at in modules if at.count(".") == 0][1:4]
                    )
                    raise UserError(f"{self.name}: it has no module {layer!r}; there are {listed(close)} and others")
                self.inside[head] = modules[layer]
        self.heads: Mapping[str, tuple[int, ...]] = dict.fromkeys(settings.heads, ())
        blank = torch.from_numpy(self.transform(Image.new("RGB", (64, 48))))[None]
        try:
            outputs = self.forward({"pixels": blank.to(device)})
        except (RuntimeError, AssertionError) as error:
            line = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.name}: it cannot take images of {blank.shape[2]} x {blank.shape[3]}: {line}; set "
                "`transforms` to weights of that size"
            ) from None
        self.heads = {head: tuple(value.shape[1:]) for head, value in outputs.items()}
        self.largest, self.notes = largest(self.name, self.heads, settings.top)
        if (cost := blank[0, 0].numel() / 224**2) >= COSTLY:
            self.notes += (
                f"its own size of {blank.shape[2]} x {blank.shape[3]} has {cost:.1f} times the pixels of 224 x 224; "
                "other `weights` may have less",
            )

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """Resize and crop as the weights' own transforms do: [3, h, w], uint8."""
        preset = self.preset
        (shorter,), (side,) = preset.resize_size, preset.crop_size
        centre = resized_centre(rgb(image), shorter, (side, side), preset.interpolation)
        return np.ascontiguousarray(np.asarray(centre).transpose(2, 0, 1))

    @torch.inference_mode()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each head [n, d], float32."""
        pixels = (batch["pixels"].float() / 255 - self.mean) / self.std
        seen: dict[str, list[Any]] = {head: [] for head in self.inside}
        with ExitStack() as hooks:
            for head, module in self.inside.items():
                at = (
                    module.register_forward_pre_hook(lambda _, inputs, to=seen[head]: to.append(inputs[0]))
                    if head == "pooled"
                    else module.register_forward_hook(lambda _, inputs, output, to=seen[head]: to.append(output))
                )
                hooks.callback(at.remove)
            logits = self.model(pixels.to(self.dtype))
        return {head: logits.float() if head == "logits" else self._vector(head, seen[head]) for head in self.heads}

    def _vector(self, head: str, outputs: Sequence[Any]) -> Tensor:
        """One vector per row [n, d] of what a module gave.

        Raises:
            UserError: it was not used once, or gave something else than states or a map.
        """
        if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or outputs[0].ndim not in (2, 3, 4):
            found = (
                f"is used {count(len(outputs), 'time')} in a pass"
                if len(outputs) != 1
                else "gives no states and no map"
            )
            raise UserError(f"{self.name}: head `{head}`: this module {found}; name another")
        values: Tensor = outputs[0].float()
        if values.ndim == 4 and head.count(".") > 1:
            raise UserError(f"{self.name}: head `{head}`: inside of a block maps have various layouts; name the block")
        if values.ndim == 4:
            last = isinstance(self.model, models.SwinTransformer) and head.startswith(("layer:features", "layer:norm"))
            return values.mean((1, 2) if last else (2, 3))
        # The class token of a vision transformer comes first.
        return values[:, 1:].mean(1) if values.ndim == 3 else values


class NoClassifier(nn.Identity):
    """In place of a classifier's last layer that the weights lack."""


def last_layer(model: nn.Module) -> str:
    """The name of the last layer of a model's classifier: its last `Linear`; in SqueezeNet, which has none, `Conv2d`.

    In a model without it, a `NoClassifier` is in its place.
    """
    named = [*model.named_modules()]
    for kind in (NoClassifier, nn.Linear, nn.Conv2d):
        if found := [name for name, module in named if isinstance(module, kind)]:
            return found[-1]
    raise AssertionError("a classifier without layers")


def _member(of_model: Any, name: str) -> Any:
    """The weights of a model by name; None for what can only be a file.

    Raises:
        UserError: it is neither.
    """
    if name in of_model.__members__:
        return of_model[name]
    if name.startswith("package:") or "." in name or "/" in name:
        return None
    raise UserError(f"{of_model.__name__} has no {name!r}; there are {listed([*of_model.__members__])}, or name a file")


def _downloaded(settings: Settings, weights: Enum) -> nn.Module:
    """A model with weights of torchvision, which are downloaded, unless they are in the cache of torch."""
    url = weights.value.url
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    advice = f"download {url} elsewhere and put it at {path}, or set `weights` to a file"
    if not path.is_file() and HF_HUB_OFFLINE:
        raise UserError(
            f"{settings.model}: its weights {weights.name} are not here, and HF_HUB_OFFLINE is set; {advice}"
        )
    try:
        # Checks the digest in its name; the library's reader would unpickle more than tensors.
        torch.hub.load_state_dict_from_url(url, map_location="cpu", progress=False, check_hash=True, weights_only=True)
        return _whole(models.get_model(settings.model, weights=weights, progress=False))
    except Exception as error:  # whatever stops a download, or a damaged file
        line = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{settings.model}: its weights {weights.name} cannot be loaded: {line}; {advice}") from None


def _from_file(settings: Settings) -> nn.Module:
    """A model with weights from a file, and as many classes as these have."""
    path, arguments = pretrained.locate(settings.weights), dict(settings.arguments)
    everything = pretrained.read_weights(path)
    if settings.model in ("googlenet", "inception_v3") and "transform_input" not in arguments:
        raise UserError(
            f"{path}: say how {settings.model} was trained: `arguments: {{transform_input: true}}` for the weights of "
            "torchvision and what was tuned from them, else false"
        )
    expected = _built(settings, arguments)
    last = f"{last_layer(expected)}.weight"
    state, _ = pretrained.without_prefix(everything, expected.state_dict().keys(), str(path))
    state = {key: value for key, value in state.items() if key.partition(".")[0] not in AUXILIARY}
    if last in state and state[last].shape[1:] == expected.state_dict()[last].shape[1:]:
        expected = _built(settings, arguments | {"num_classes": len(state[last])})
    # A backbone without its classifier, as self-supervised training leaves it.
    headless = last not in state
    there = {key: value for key, value in expected.state_dict().items() if not headless or not _is_of(last, key)}
    if why := pretrained.misfit(state, there):
        raise UserError(f"{path}: not weights of {settings.model}: {why}")
    classes = len(expected.state_dict()[last])
    model = _built(settings, arguments | {"num_classes": classes}, torch.device("cpu"))
    complete = model.state_dict()  # with the version of the model's code, without which MNASNet loads nothing
    complete.update(state)
    model.load_state_dict(complete)
    if headless:
        above, _, name = last.removesuffix(".weight").rpartition(".")
        setattr(model.get_submodule(above), name, NoClassifier())
    return model


def _is_of(weight: str, key: str) -> bool:
    """Whether a tensor is of the same layer as a weight."""
    return key.rpartition(".")[0] == weight.rpartition(".")[0]


def _built(settings: Settings, arguments: Mapping[str, Any], device: torch.device = torch.device("meta")) -> nn.Module:
    quiet = {"init_weights": False} if settings.model in ("googlenet", "inception_v3") else {}
    try:
        with device:
            return _whole(models.get_model(settings.model, weights=None, **quiet, **arguments))
    except NotImplementedError:  # a RegNet reads the numbers of its blocks out of tensors
        if device.type != "meta":
            raise
        return _built(settings, arguments, torch.device("cpu"))
    except (TypeError, ValueError) as error:
        raise UserError(f"{settings.model}: arguments: {' '.join(str(error).split())[:200]}") from None


def _whole(model: nn.Module) -> nn.Module:
    """The model without classifiers that are only used in training."""
    for name in AUXILIARY:
        if hasattr(model, name):
            setattr(model, name, None)
    return model
