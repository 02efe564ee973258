"""Short forms of a teacher or student in params.yaml: `dino: timm:vit_small_patch14_dinov2.lvd142m`.

    timm:NAME                a model of timm, with the tag of its weights
    hf:NAME[@REVISION]       a model of transformers, from the hub or a folder, for the dataset's texts or images
    file:PATH                a folder in the format of transformers (texts) or of timm (images), or its file of weights
    package:NAME/PATH        the same inside an installed package

Each stands for a mapping with `family` and `model`, and has its defaults; other settings need the mapping itself.
"""

from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import UserError, listed, suggestion

FORMS = ("timm", "hf", "file", "package")
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
VISION = {"teachers": "transformers_vision"}
"""The family of transformers that reads images, by section; there is none for students."""


def expand(text: str, section: str, kind: str, where: str) -> dict[str, Any]:
    """The mapping that a short form stands for.

    Args:
        text: such as `timm:resnet18`.
        section: `teachers` or `students`.
        kind: what the dataset's rows hold; see `pipeline.datasets.Kind`.
        where: its place, for messages.

    Raises:
        UserError: it is not a short form, or not one for such rows.
    """
    form, colon, name = text.partition(":")
    if not colon or form not in FORMS:
        raise UserError(
            f"{where}: {text!r} is not a short form{suggestion(form, FORMS)}; write one of "
            f"{listed([f'{form}:NAME' for form in FORMS])}, or a mapping with `family`"
        )
    if not name.strip():
        raise UserError(f"{where}: {text!r} names no model; write {form}:NAME")
    if form == "timm":
        return {"family": "timm", "model": name}
    if kind == "image+text":
        raise UserError(f"{where}: {text!r}: the dataset holds images and texts; write a mapping with `family`")
    if form == "hf" and kind == "image":
        if section not in VISION:
            raise UserError(f"{where}: {text!r}: {section} of images come from timm; write timm:NAME")
        return {"family": VISION[section], **_revision(name)}
    if form == "hf":
        return {"family": "transformers", **_revision(name)}
    path = text if form == "package" else name
    if kind != "image":
        return {"family": "transformers", "model": path}
    if path.endswith(SUFFIXES):
        return {"family": "timm", "model": f"local-dir:{PurePosixPath(path).parent}", "weights": path}
    return {"family": "timm", "model": f"local-dir:{path}"}


def _revision(name: str) -> dict[str, str]:
    model, _, revision = name.rpartition("@")
    return {"model": model, "revision": revision} if model and "/" not in revision else {"model": name}
