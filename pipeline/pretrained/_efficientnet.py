"""EfficientNet-Lite weights with the names of the TensorFlow release and its PyTorch ports."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.errors import UserError

NORMALISATION = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
"""EfficientNet-Lite was trained on (pixels - 127) / 128; timm's configuration rounds that to 0.5 and 0.5."""

BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Layers of an inverted bottleneck: their names in the TensorFlow release and its PyTorch ports, and in timm."""

FIRST_BLOCKS = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""The same in a block that does not expand."""

ENDS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def is_original(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the names of the TensorFlow release."""
    return "_conv_stem.weight" in state


def renamed(state: Mapping[str, Tensor], shape: Any, path: Path) -> dict[str, Tensor]:
    """EfficientNet weights under the names of the TensorFlow release, renamed to timm's.

    The original numbers all blocks in a row, timm numbers them within stages. Squeeze-and-excitation is not covered:
    the Lite models have none.

    Args:
        state: tensors by their names in the file.
        shape: timm's model.
        path: of the file, for messages.

    Raises:
        UserError: they are weights of another model.
    """
    architecture = type(shape).__name__
    if architecture != "EfficientNet":
        raise UserError(f"{path}: these are weights of an EfficientNet, and the model is a {architecture}")
    places = [(stage, block) for stage, blocks in enumerate(shape.blocks) for block in range(len(blocks))]
    found = {}
    for name, tensor in state.items():
        try:
            if name.startswith("_blocks."):
                _, number, layer, leaf = name.split(".")
                stage, block = places[int(number)]
                expands = f"_blocks.{number}._expand_conv.weight" in state
                layers = BLOCKS if expands else FIRST_BLOCKS
                found[f"blocks.{stage}.{block}.{layers[layer]}.{leaf}"] = tensor
            else:
                layer, leaf = name.split(".")
                found[f"{ENDS[layer]}.{leaf}"] = tensor
        except (KeyError, IndexError, ValueError):
            raise UserError(f"{path}: {name!r} has no place in this architecture; another model's weights?") from None
    return found
