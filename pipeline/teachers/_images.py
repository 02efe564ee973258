"""What teachers of images share: an image is decoded, preprocessed to one size, and stacked with others."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline import images
from pipeline.teachers import Teacher


class ImageTeacher(Teacher):
    """A teacher of images, all of one size once they are preprocessed."""

    kind: Literal["image"] = "image"
    uniform = True

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Any:
        """What the model takes of an upright image: an array [*shape], of one shape and type for all images.

        It is called by several threads, as `transform` is.
        """

    def transform(self, content: str | bytes | Image.Image) -> Any:
        """Decode, and preprocess.

        Raises:
            ValueError: the image does not decode.
        """
        assert not isinstance(content, str)
        return self.preprocess(images.decode(content) if isinstance(content, bytes) else content)

    def cost(self, example: Any) -> int:
        """All images are of one size."""
        return 1

    def collate(self, examples: Sequence[Any]) -> Mapping[str, Tensor]:
        """The arrays of images, stacked: `pixels` [n, *shape]."""
        return {"pixels": torch.from_numpy(np.stack(examples))}
