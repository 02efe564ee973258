"""Configurations of Hugging Face models and processors as part of a recipe."""

import json
from collections.abc import Mapping
from typing import Any

VOLATILE = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"}
"""Keys that do not change what a model computes."""


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-like values, without keys that change no feature."""
    found: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return {key: value for key, value in found.items() if key not in VOLATILE}
