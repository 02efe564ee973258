"""Weights of foundation models: where they are, and a digest of them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.packages import packaged

PACKAGE = "package:"


def locate(name: str) -> Path:
    """The path that a name of weights stands for.

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

    The same weights give the same digest whatever file, format or hub they came from.
    """
    hasher = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()[:32]
