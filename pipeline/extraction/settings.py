"""The section `extract` of params.yaml."""

from typing import Literal

import torch
from pydantic import Field

from pipeline.errors import UserError
from pipeline.files import without_secrets
from pipeline.objects import is_remote
from pipeline.params import PLACE, Params, Settings
from pipeline.teachers import Precision


class ExtractSettings(Settings):
    """The section `extract` of params.yaml.

    Attributes:
        precision: what the teacher computes in. bfloat16 is fast where the processor has it, and part of the recipe.
        dtype: what is stored; int8 with a scale for each row (of tokens, for each token). A head with values too large
            for float16 is stored as bfloat16, which takes as many bytes and has fewer digits.
        codec: raw, so that rows are read straight from the file; zstd; or auto, which is zstd where that halves them.
        batch_size: rows in a batch; 32 on a CPU and 256 on a GPU if None. One that does not fit the memory is computed
            in parts.
        shard_rows: rows a shard; chosen by the store if None.
    """

    precision: Precision = "float32"
    dtype: Literal["float16", "bfloat16", "float32", "int8"] = "float16"
    codec: Literal["raw", "zstd", "auto"] = "raw"
    batch_size: int | None = Field(default=None, ge=1)
    shard_rows: int | None = Field(default=None, ge=1)

    def batch_rows(self, device: torch.device) -> int:
        """Rows in a batch on a device."""
        return self.batch_size or (256 if device.type == "cuda" else 32)


def place_of_features(params: Params) -> str | None:
    """The URL below which `features` in params.yaml has the stores; None for the project's folder.

    Raises:
        UserError: it is no such URL, or has credentials in it.
    """
    place = params.values.get(PLACE)
    if place is None:
        return None
    where = f"{params.source}: {PLACE}"
    if not is_remote(place):
        shown = without_secrets(place) if isinstance(place, str) else place
        raise UserError(f"{where}: write s3://BUCKET/PREFIX, or a URL with gs:// or az://, not {shown!r}")
    if "@" in place.partition("://")[2].partition("/")[0] or "?" in place:
        raise UserError(f"{where}: a URL with credentials would end up in logs; set them in the environment")
    return str(place).rstrip("/")
