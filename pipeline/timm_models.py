"""What teachers and students of timm share: the name of a model, and the size of its input."""

import difflib
from typing import Any

import timm
import torch

from pipeline.errors import UserError


def check_name(name: str) -> None:
    """Refuse a name that is not in timm's own list.

    Raises:
        UserError: there is no such model; the line has the nearest names.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UserError(f"timm has no model {name!r}; the nearest names are {', '.join(close) or 'none'}")


def size_options(name: str, size: int | None) -> dict[str, Any]:
    """What `timm.create_model` must be told for images of another size.

    Nothing where any size will do, as for most convolutional networks; `img_size` where the size is built into the
    model, as into position embeddings and windows. A forward pass without data shows whether the size fits.

    Args:
        name: of the model.
        size: height and width of its images; None for the model's own.

    Raises:
        UserError: the model cannot take images of this size.
    """
    if size is None:
        return {}
    with torch.device("meta"):
        model: Any = timm.create_model(name)
        options: dict[str, Any] = {"img_size": size} if model.pretrained_cfg.get("fixed_input_size") else {}
        try:
            model = timm.create_model(name, **options) if options else model
            model.eval()(torch.zeros(1, 3, size, size))
        except Exception as error:  # each architecture checks its size in its own way
            line = " ".join(str(error).split())[:200] or type(error).__name__
            own = model.pretrained_cfg["input_size"][1]
            raise UserError(
                f"{name}: images of {size} x {size} do not fit it ({line}); set another `size`, such as a multiple of "
                f"32, or leave it out for the model's own {own}"
            ) from None
    return options
