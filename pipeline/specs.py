"""Short forms of a teacher or student in params.yaml: `dino: timm:vit_small_patch14_dinov2.lvd142m`.

    timm:NAME                    a model of timm, with the tag of its weights
    hf:NAME[@REVISION]           a model of transformers, from the hub or a folder, for the dataset's texts or images
    torchvision:NAME[@WEIGHTS]   a teacher of torchvision
    onnx:PATH                    a teacher in an ONNX file
    file:PATH                    a folder in the format of transformers (texts) or of timm (images), or its file of
                                 weights; an ONNX file; or a file of features, such as `features.npy`
    package:NAME/PATH            the same inside an installed package
    python:MODULE:FUNCTION       a teacher or student of your own, such as `python:package.module:factory`

Each stands for a mapping with `family` and `model`, and has its defaults; other settings need the mapping itself.
"""

from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import UserError, listed, suggestion

FORMS = ("timm", "hf", "torchvision", "onnx", "file", "package", "python")
OF_TEACHERS = ("torchvision", "onnx")
"""Forms that no student has."""
WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")
FEATURES = (".npy", ".parquet", ".h5", ".hdf5")
"""Suffixes of files of weights, and of files that can only hold features."""
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
        known = [form for form in FORMS if section == "teachers" or form not in OF_TEACHERS]
        raise UserError(
            f"{where}: {text!r} is not a short form{suggestion(form, known)}; write one of "
            f"{listed([f'{form}:NAME' for form in known])}, or a mapping with `family`"
        )
    if not name.strip():
        raise UserError(f"{where}: {text!r} names no model; write {form}:NAME")
    if form == "python":
        return {"family": "python", "factory": name} | ({"kind": kind} if section == "students" else {})
    if form == "timm":
        return {"family": "timm", "model": name}
    suffix = PurePosixPath(name).suffix.lower() if form in ("file", "package") else ""
    if section == "students" and (form in OF_TEACHERS or suffix in (".onnx", *FEATURES)):
        raise UserError(f"{where}: {text!r} cannot be trained; write timm:NAME, hf:NAME, or a mapping with `family`")
    path = text if form == "package" else name
    if form == "torchvision":
        model, _, weights = name.partition("@")
        return {"family": "torchvision", "model": model} | ({"weights": weights} if weights else {})
    if form == "onnx" or suffix == ".onnx":
        return {"family": "onnx", "model": path}
    if suffix in FEATURES:
        return {"family": "features", "path": path}
    if kind == "image+text":
        raise UserError(f"{where}: {text!r}: the dataset holds images and texts; write a mapping with `family`")
    if form == "hf" and kind == "image":
        if section not in VISION:
            raise UserError(f"{where}: {text!r}: {section} of images come from timm; write timm:NAME")
        return {"family": VISION[section], **_revision(name)}
    if form == "hf":
        return {"family": "transformers", **_revision(name)}
    if kind != "image":
        return {"family": "transformers", "model": path}
    if suffix in WEIGHTS:
        return {"family": "timm", "model": f"local-dir:{PurePosixPath(path).parent}", "weights": path}
    return {"family": "timm", "model": f"local-dir:{path}"}


def _revision(name: str) -> dict[str, str]:
    model, _, revision = name.rpartition("@")
    return {"model": model, "revision": revision} if model and "/" not in revision else {"model": name}
