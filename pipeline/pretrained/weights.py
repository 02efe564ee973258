"""Weights of pretrained models: finding them, reading their files, and their digest."""

import argparse
import hashlib
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file
from torch import Tensor

from pipeline.errors import UserError, count
from pipeline.packages import packaged

PACKAGE = "package:"

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "module")
"""Names under which training scripts save a model's weights in a checkpoint; averaged weights come first."""

SHARE = 0.5
"""A prefix is accepted if this share of the model's tensors is found under it."""


def locate(name: str) -> Path:
    """The path for a name of weights.

    `package:NAME/PATH` is a file or folder inside the installed package NAME, found without importing it. Any other
    name is returned as it is: a path, or the name of a model on a hub.

    Raises:
        UserError: the package is not installed, or has no such file or folder.
    """
    if not name.startswith(PACKAGE):
        return Path(name)
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    if not package.isidentifier():
        raise UserError(f"{name}: write it as {PACKAGE}NAME/PATH, where NAME is what Python imports")
    try:
        return packaged(package, inside)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def digest(state: Mapping[str, Tensor]) -> str:
    """One digest over tensors: their names, types, shapes and bytes, 32 hex digits.

    The same weights have the same digest, whatever file, format or hub they come from.
    """
    hasher = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()[:32]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name: .safetensors, or a file of `torch.save`, read without running code.

    If it is a training checkpoint, the first entry of `WRAPPERS` that it has is read.

    Raises:
        UserError: there is no such file, it cannot be read without running code, or it holds more than tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Checkpoints of timm's and many other training scripts hold their command line.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that torch did not write, which are then refused
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # its message advises to run whatever the file holds
        raise UserError(
            f"{path}: damaged, or more than tensors, which might run code when loaded; save the model's state_dict"
        ) from None
    except Exception as error:  # each format raises different errors for a damaged file
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: these weights cannot be read ({line}); save them again, as .safetensors") from None
    while isinstance(state, Mapping) and (inner := [n for n in WRAPPERS if isinstance(state.get(n), Mapping)]):
        state = state[inner[0]]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: it holds more than tensors; save the model's state_dict")
    return dict(state)


def hub_problem(error: BaseException, name: str) -> str:
    """Why the hub does not give a model, and what to do.

    Args:
        error: of huggingface_hub, or of what is below it.
        name: of the model on the hub.
    """
    match error:
        case GatedRepoError():
            where = f"https://huggingface.co/{name}"
            return f"it is gated: accept its terms at {where}, then run `hf auth login`, or set HF_TOKEN"
        case RepositoryNotFoundError():
            return "the hub has no model of this name, or it is private: check the name, or run `hf auth login`"
        case RevisionNotFoundError():
            return "the hub has the model, but no such revision: check the branch, tag or commit"
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            return (
                "the hub cannot be reached, or HF_HUB_OFFLINE is set: download it elsewhere and name its folder, or "
                "set HF_ENDPOINT to a mirror"
            )
    return " ".join(str(error).split())[:300] or type(error).__name__


def without_prefix(state: Mapping[str, Tensor], names: Collection[str], where: str) -> tuple[dict[str, Tensor], str]:
    """The tensors under the prefix where most of a model's are, such as `module.` or `model.backbone.`, without it.

    Args:
        state: tensors by name.
        names: of the model's tensors.
        where: the file, for messages.

    Returns:
        The tensors, and the prefix. If no prefix has `SHARE` of the names, all tensors, without a `module.` or
        `_orig_mod.` that all of them have: the names may be those of another release, which a library converts.

    Raises:
        UserError: several prefixes have equally many, so the file holds several models.
    """
    found: Counter[str] = Counter()
    for name in state:
        # Each way to cut a name in two: a prefix, and possibly the name of one of the model's tensors.
        parts = name.split(".")
        found.update(
            "".join(f"{part}." for part in parts[:at]) for at in range(len(parts)) if ".".join(parts[at:]) in names
        )
    most = max(found.values(), default=0)
    if most and most >= SHARE * len(names):
        best = [prefix for prefix, number in found.items() if number == most]
        prefix = min(best, key=len)
        if prefix and len(best) > 1:
            raise UserError(f"{where}: it holds several models, under {_quoted(best)}; save one of them")
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}, prefix
    for wrapper in ("module.", "_orig_mod.", "module."):
        if state and all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return dict(state), ""


def misfit(state: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> str:
    """How tensors differ from those of a model, in words; empty if they do not.

    Args:
        state: the tensors of a file.
        model: the model's own tensors; only shapes matter.
    """
    missing, unknown = [name for name in model if name not in state], [name for name in state if name not in model]
    other = [name for name in state if name in model and state[name].shape != model[name].shape]
    found = []
    if missing:
        found.append(f"it lacks {len(missing)} of the model's {count(len(model), 'tensor')} ({_quoted(missing)})")
    if unknown:
        found.append(f"it holds {len(unknown)} that the model does not have ({_quoted(unknown)})")
    if other:
        name = other[0]
        found.append(f"{name!r} is {tuple(state[name].shape)}, the model's is {tuple(model[name].shape)}")
    return "; ".join(found)


def _quoted(names: Collection[str], most: int = 3) -> str:
    shown = ", ".join(repr(name) for name in sorted(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
