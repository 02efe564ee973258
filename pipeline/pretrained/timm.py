"""Image models of timm, for teachers and students: finding them, their configuration, their weights and image size.

A model comes from timm's own list, or from a folder or repository in timm's format, whose config.json says how to build
it and how to prepare its images. A config.json of timm next to a file of weights is used as well. Weights are loaded
completely or refused: no part of a model stays random.
"""

import difflib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import snapshot_download
from timm.data import resolve_model_data_config
from timm.models import get_arch_pretrained_cfgs
from timm.models._hub import load_model_config_from_path
from timm.models._input import get_model_args
from torch import Tensor

from pipeline.errors import UserError, count, listed
from pipeline.files import TEXT_BYTES, read_regular
from pipeline.pretrained import _efficientnet as efficientnet
from pipeline.pretrained import hub_problem, locate, misfit, read_weights, without_prefix

FOLDER, HUB = "local-dir:", "hf-hub:"
"""Prefixes of names that are not in timm's own list."""

FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
"""File names of weights in a folder of timm's format; the first that exists is used."""

CROPS, INTERPOLATIONS = ("center", "squash", "border"), ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
"""The crops and interpolations of timm, except random ones."""


@dataclass(frozen=True)
class TimmModel:
    """A model of timm, before it is built.

    Attributes:
        name: the user's name for it, for messages.
        architecture: timm's name, with the tag of its weights if there is one.
        weights: the file of weights; None for those of timm's hub.
        config: the configuration of weights and images in its config.json; empty for timm's own.
        arguments: arguments for the constructor in config.json, such as `global_pool`.
    """

    name: str
    architecture: str
    weights: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, name: str, weights: str | None = None) -> "TimmModel":
        """Find a model by name, with its configuration.

        Args:
            name: from timm's list, with or without a tag; `local-dir:FOLDER`; or `hf-hub:OWNER/NAME@REVISION`.
            weights: a file of weights; None for those of timm's hub, of the folder or of the repository.

        Raises:
            UserError: there is no such model, tag, folder or file, or config.json is damaged or of another model.
        """
        file = None if weights is None else locate(weights)
        if name.startswith((FOLDER, HUB)):
            folder = _folder(name)
            architecture, config, arguments = _configuration(folder / "config.json", name)
            return cls(name, architecture, file or _weights(folder), config, arguments)
        _check_name(name)
        if file is None or not _of_timm(neighbour := file.parent / "config.json"):
            return cls(name, name, file)
        architecture, config, arguments = _configuration(neighbour, name)
        if architecture != name.partition(".")[0]:
            raise UserError(
                f"{neighbour}: a {architecture}, but the model is {name}; set `model: {architecture}`, or move the "
                "weights away from this file"
            )
        return cls(name, name, file, config, arguments)

    def create(self, **options: Any) -> Any:
        """The model without its weights.

        Args:
            options: arguments for the constructor, which override those of config.json.

        Raises:
            UserError: config.json has arguments that the model does not know.
        """
        return self._create(**options)

    def options(self, size: int | None) -> dict[str, Any]:
        """Arguments for the constructor so that the model takes images of another size.

        None if the model takes any size, as most convolutional networks do; `img_size` if the size is part of the
        model, as in position embeddings and windows. A forward pass without data tests whether the size fits.

        Args:
            size: height and width of its images; None for the model's own.

        Raises:
            UserError: the model cannot take images of this size.
        """
        if size is None:
            return {}
        with torch.device("meta"):
            model = self.create()
            options: dict[str, Any] = {"img_size": size} if model.pretrained_cfg.get("fixed_input_size") else {}
            try:
                model = self._create(**options) if options else model
                model.eval()(torch.zeros(1, _channels(model), size, size))
            except Exception as error:  # each architecture checks its size in its own way
                line = " ".join(str(error).split())[:200] or type(error).__name__
                own = model.pretrained_cfg["input_size"][1]
                raise UserError(
                    f"{self.name}: images of {size} x {size} do not fit it ({line}); set another `size`, such as a "
                    f"multiple of 32, or leave it out for the model's own {own}"
                ) from None
        return options

    def depth(self, layers: int | None) -> dict[str, Any]:
        """What the constructor must be told to keep the first layers of a model; nothing for all of them.

        Args:
            layers: how many blocks are kept.

        Raises:
            UserError: it has fewer, or is no plain stack of blocks, as vision transformers are.
        """
        if layers is None:
            return {}
        with torch.device("meta"):
            own = _blocks(self.create())
            if layers > own > 0:
                raise UserError(f"{self.name}: layers: {layers}, and it has {own}; set fewer")
            # Each architecture refuses what it does not know in its own way.
            with suppress(Exception):
                if _blocks(self.create(depth=layers)) == layers:
                    return {"depth": layers}
        raise UserError(
            f"{self.name}: cannot be cut to {count(layers, 'layer')}: it is no stack of equal blocks, as vision "
            "transformers are; leave `layers` out"
        )

    def load(self, **options: Any) -> tuple[Any, tuple[str, ...]]:
        """The model with all of its weights and as many classes as they have, and notes for the user.

        Args:
            options: arguments for the constructor, which override those of config.json.

        Raises:
            UserError: the weights cannot be fetched or read, or are not those of this model.
        """
        if self.weights is None:
            try:
                return self._create(pretrained=True, **options), ()
            except Exception as error:  # whatever stops a download: no network, no permission, no space
                line = hub_problem(error, f"timm/{self.name}")
                raise UserError(
                    f"{self.name}: its weights cannot be loaded: {line}; or set `weights` to a file"
                ) from None
        return self._load_file(self.weights, options)

    def _load_file(self, path: Path, options: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
        with torch.device("meta"):
            shape = self.create(**options)
        everything = read_weights(path)
        state, prefix = without_prefix(everything, shape.state_dict().keys(), str(path))
        overlay: dict[str, Any] = {}
        if efficientnet.is_original(state):
            state = efficientnet.renamed(state, shape, path)
            overlay = efficientnet.NORMALISATION
        channels, classes = _input_channels(state, shape), _classes(state, shape)
        if channels not in (1, 3):
            raise UserError(f"{path}: these weights take images of {count(channels, 'channel')}; they can have 1 or 3")
        if channels != _channels(shape):
            options = options | {"in_chans": channels}
            overlay = overlay | {"input_size": (channels, *shape.pretrained_cfg["input_size"][1:])}
        overlay = overlay | {"state_dict": state, "num_classes": classes}
        try:
            # timm's own reader: it is strict, and converts the layouts of each architecture's first releases.
            model = self._create(pretrained=True, overlay=overlay, **options | {"num_classes": classes})
        except Exception as error:  # names, shapes and layouts fail in many ways
            with torch.device("meta"):
                expected = self._create(**options | {"num_classes": classes}).state_dict()
            why = misfit(state, expected) or " ".join(str(error).split())[:200]
            raise UserError(f"{path}: not weights of {self.name}: {why}") from None
        del model.pretrained_cfg["state_dict"]  # or all weights would be in memory twice
        lacking = model.state_dict().keys() - state.keys()
        if (
            lacking and type(model).__module__ == "timm.models.dla"
        ):  # the only family for which timm's reader is not strict
            raise UserError(f"{path}: not weights of {self.name}: {misfit(state, model.state_dict())}")
        rest = [name for name in everything if not name.startswith(prefix)]
        used = f"{path}: used the {count(len(state), 'tensor')} under {prefix!r}, but not {listed(sorted(rest)[:5])}"
        return model, (used + (f" and {len(rest) - 5} more" if len(rest) > 5 else ""),) if rest else ()

    def _create(self, pretrained: bool = False, overlay: dict[str, Any] | None = None, **options: Any) -> Any:
        try:
            return timm.create_model(
                self.architecture,
                pretrained=pretrained,
                pretrained_cfg=dict(self.config) or None,
                pretrained_cfg_overlay=overlay,
                **{**self.arguments, **options},
            )
        except (TypeError, ValueError, AssertionError, KeyError) as error:
            if pretrained or not self.config:
                raise
            line = " ".join(str(error).split())[:200]
            raise UserError(f"{self.name}: its config.json does not fit {self.architecture}: {line}") from None


def _blocks(model: Any) -> int:
    """How many blocks a model is a stack of; 0 if it is none."""
    blocks = getattr(model, "blocks", None)
    return len(blocks) if blocks is not None else 0


def data_configuration(model: Any, name: str) -> dict[str, Any]:
    """How a model's images are prepared: `input_size`, `interpolation`, `mean`, `std`, `crop_pct`, `crop_mode`.

    If a model takes grey images but has the mean and std of three channels, they are averaged.

    Args:
        model: the built model.
        name: its name, for messages.

    Raises:
        UserError: the configuration makes no sense, as after an edit of config.json.
    """
    config = resolve_model_data_config(model)
    channels = _channels(model)
    size = tuple(config["input_size"])
    for key in ("mean", "std"):
        values = [float(value) for value in config[key]]
        if len(values) != channels:
            values = [sum(values) / len(values)] * channels
        config[key] = tuple(values)
    sound = len(size) == 3 and min(size) > 0 and min(config["std"]) > 0 and config["crop_pct"] > 0
    if not sound or config["crop_mode"] not in CROPS or config["interpolation"] not in INTERPOLATIONS:
        said = ", ".join(f"{key} {value}" for key, value in config.items())
        raise UserError(f"{name}: its image configuration makes no sense ({said}); correct its config.json")
    return config | {"input_size": (channels, *size[1:])}


def arguments(model: Any) -> dict[str, Any]:
    """The arguments of a model's constructor, from its configuration and from here, with the defaults that matter."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in get_model_args(model).items()}


def classifiers(model: Any) -> tuple[str, ...]:
    """The names of a model's classifiers; several if it was trained with several."""
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _check_name(name: str) -> None:
    """Refuse a name or a tag that is not in timm's own list."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UserError(f"timm has no model {name!r}; the nearest names are {listed(close)}")
    if tag and name not in (known := get_arch_pretrained_cfgs(architecture)):
        raise UserError(f"timm has no weights {name!r}; for {architecture} there are {listed(list(known)[:6])}")


def _folder(name: str) -> Path:
    """The folder for a name that begins with `FOLDER` or `HUB`; a repository is fetched first."""
    if name.startswith(FOLDER):
        folder = locate(name.removeprefix(FOLDER))
        if not folder.is_dir():
            raise UserError(f"{name}: no such folder")
        return folder
    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        folder = Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=["config.json", *FILES[:2]])
        )
        if not any((folder / file).is_file() for file in FILES):
            snapshot_download(repository, revision=revision or None, allow_patterns=[*FILES[2:]])
    except Exception as error:  # whatever stops a download: no network, no such name, no permission, no space
        raise UserError(f"{name}: it cannot be fetched from the hub: {hub_problem(error, repository)}") from None
    return folder


def _weights(folder: Path) -> Path:
    there = [folder / name for name in FILES if (folder / name).is_file()]
    if not there:
        raise UserError(f"{folder}: no weights there; it needs one of {listed(FILES)}, or set `weights` to a file")
    return there[0]


def _of_timm(config: Path) -> bool:
    """Whether a file is a config.json of timm; one of another library is ignored."""
    if not config.is_file():
        return False
    try:
        return "architecture" in json.loads(read_regular(config, TEXT_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{config}: damaged, but the weights next to it may need it; repair or remove it") from None


def _configuration(path: Path, name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Architecture, configuration and constructor arguments in a config.json of timm."""
    if not path.is_file() or not _of_timm(path):
        raise UserError(f"{name}: not a folder in timm's format: it needs a config.json with an `architecture`")
    try:
        config, architecture, arguments = load_model_config_from_path(path.parent)
    except Exception as error:  # it may be any JSON
        raise UserError(f"{path}: not a configuration of timm ({type(error).__name__}: {error})") from None
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise UserError(f"{path}: timm has no model {architecture!r}")
    # The file's path does not matter.
    return architecture, {key: value for key, value in config.items() if key not in ("source", "file")}, arguments


def _channels(model: Any) -> int:
    return int(getattr(model, "in_chans", None) or model.pretrained_cfg["input_size"][0])


def _input_channels(state: Mapping[str, Tensor], shape: Any) -> int:
    """The number of channels that the weights take: a model may have been fine-tuned on images of one."""
    first = shape.pretrained_cfg.get("first_conv")
    weight = state.get(f"{first}.weight") if isinstance(first, str) else None
    own = _channels(shape)
    if weight is None or weight.ndim != 4:
        return own
    expected = shape.get_submodule(first).weight.shape[1]
    return int(weight.shape[1]) if expected == own else own


def _classes(state: Mapping[str, Tensor], shape: Any) -> int:
    """The number of classes of the weights: a model may have been fine-tuned on another task, or lack a classifier."""
    names = classifiers(shape)
    if not names:
        return int(shape.num_classes)
    if (last := state.get(f"{names[0]}.weight")) is not None:
        offset = shape.pretrained_cfg.get("label_offset") or 0
        return len(last) if len(last) != shape.num_classes + offset else int(shape.num_classes)
    if (projection := state.get("visual.proj")) is not None:  # under the names of CLIP; timm makes it the classifier
        return int(projection.shape[1])
    lacking = shape.state_dict().keys() - state.keys()
    headless = lacking and all(name.startswith(tuple(f"{name}." for name in names)) for name in lacking)
    return 0 if headless else int(shape.num_classes)
