"""A folder of images by class, `path/<class>/**/*.jpg`, or by split and class, `path/train/<class>/**/*.jpg`.

The second applies if every folder in `path` has the name of a split (`train`, `val`, `valid`, `validation`, `dev`,
`test`, in any case). An image's id is its path below `path`. The encoded bytes stay as they are.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets import SPLITS, Row
from pipeline.errors import UserError
from pipeline.files import is_utf8, read_regular
from pipeline.params import Settings as Section

KIND = "image"
TASK = "classification"

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

IMAGE_BYTES = 1 << 30
"""More than an encoded image has: what is larger is not read into memory."""


class Settings(Section):
    """Keys of a folder of images.

    Attributes:
        path: the folder.
        unlabelled: the name of a folder, among those of the classes, whose images have no label.
    """

    path: str
    unlabelled: str | None = None


def rows(settings: Settings) -> Iterator[Row]:
    """The images, sorted by split, class and path."""
    root = Path(settings.path)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; check dataset.source.path")
    folders: list[tuple[Path, str | None]] = []
    inside = _folders(root)
    splits = [folder for folder in inside if folder.name.lower() in SPLITS and folder.name != settings.unlabelled]
    if splits and all(folder in splits or folder.name == settings.unlabelled for folder in inside):
        for folder in inside:
            folders += [(inner, folder.name) for inner in _folders(folder)] if folder in splits else [(folder, None)]
    else:
        folders = [(folder, None) for folder in inside]
    if settings.unlabelled and settings.unlabelled not in {folder.name for folder, _ in folders}:
        raise UserError(f"{root}: no folder {settings.unlabelled!r} there; check dataset.source.unlabelled")
    for folder, split in folders:
        label = None if folder.name == settings.unlabelled else folder.name
        empty = True
        for path in _images(folder):
            empty = False
            try:
                content = read_regular(path, IMAGE_BYTES)
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}") from None
            name = path.relative_to(root).as_posix()
            if not is_utf8(name):
                raise UserError(f"{root}: the name of the file {name!a} is no text; rename it, it becomes an id")
            yield Row(name, content, label, split)
        if empty:
            raise UserError(f"{folder}: no images there; remove the folder, or add some ({', '.join(SUFFIXES)})")


def _folders(parent: Path) -> list[Path]:
    """The folders of classes or splits in a folder, which must hold no image of its own."""
    with os.scandir(parent) as entries:
        inside = sorted(Path(entry.path) for entry in entries if not entry.name.startswith("."))
    if stray := [path for path in inside if path.suffix.lower() in SUFFIXES and path.is_file()]:
        raise UserError(f"{stray[0]}: an image outside the folders of the classes; put it into one")
    folders = [path for path in inside if path.is_dir()]
    if not folders:
        raise UserError(f"{parent}: no folders of classes there")
    return folders


def _images(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Image files at any depth, sorted within each folder; hidden files and other kinds of file are not images.

    Args:
        folder: to look into.
        above: device and inode of the folders that it is in, to find links that lead back into one.
    """
    about = folder.stat()
    here = (about.st_dev, about.st_ino)
    if here in above:
        raise UserError(f"{folder}: a link to a folder that it is in; remove it")
    with os.scandir(folder) as entries:
        inside = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in inside:
        if entry.is_dir():
            yield from _images(Path(entry.path), (*above, here))
        elif entry.name.lower().endswith(SUFFIXES):
            yield Path(entry.path)
