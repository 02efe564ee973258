"""A teacher for tests of engines, whose process may be killed or hung from elsewhere."""

import os
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.teachers import Teacher


class Lengths(Teacher):
    """Its features are the length and a checksum of a text.

    Args:
        orders: a folder. The one process that takes the file `kill` out of it ends without a word, and the one that
            takes `hang` does nothing any more; each that computes leaves a file with its number.
        seconds: that a batch takes at least.
        scale: of the features.
    """

    kind = "text"
    device = torch.device("cpu")
    uniform = True
    heads: Mapping[str, tuple[int, ...]] = {"pooled": (2,)}

    def __init__(self, orders: Path | None = None, seconds: float = 0, scale: float = 1):
        self.orders, self.seconds, self.scale = orders, seconds, scale
        self.recipe: Mapping[str, Any] = {"family": "lengths", "precision": "float32", "scale": scale}

    def transform(self, content: Any) -> tuple[int, int]:
        return len(content), zlib.crc32(content.encode()) % 9973

    def cost(self, example: Any) -> int:
        return int(example[0])

    def collate(self, examples: Sequence[Any]) -> Mapping[str, Tensor]:
        return {"numbers": torch.tensor(examples, dtype=torch.float32)}

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        time.sleep(self.seconds)
        if self.orders is not None:
            (self.orders / f"{os.getpid()}").touch()
            if _taken(self.orders / "kill"):
                os._exit(1)
            if _taken(self.orders / "hang"):
                time.sleep(86_400)
        return {"pooled": self.scale * batch["numbers"]}


def _taken(order: Path) -> bool:
    try:
        order.unlink()
    except FileNotFoundError:
        return False
    return True
