"""A folder of images by class, `path/<class>/**/*.jpg`, or by split and class, `path/train/<class>/**/*.jpg`.

The second applies if every folder in `path` has the name of a split (`train`, `training_set`, `val`, `valid`,
`validation`, `dev`, `test`, `Testing`, `val2017` ...). If only some have such names, the setting `splits` lists the
split folders. Of several folders that all have the name of a split, as in `path: [raw/train, raw/test]`, each is that
split. The id of an image is its path below `path`. The encoded bytes are kept. With `labels: false`, folders have no
meaning.

Every file is accounted for. Images are recognised by their first bytes, not by their names. Hidden files, thumbnails of
other programs and files that are not images are skipped and listed; images that cannot be read are listed as such.
"""

import os
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

from pydantic import Field

from pipeline import images
from pipeline.ahead import mapped
from pipeline.datasets import SPLITS, Location, Passed, Row, split_of
from pipeline.datasets._images import UNREAD, begins_as_image, read_image
from pipeline.errors import UserError, listed
from pipeline.files import is_utf8
from pipeline.objects import AT_ONCE, ObjectPath, Place, place
from pipeline.params import Settings as Section

KIND = "image"
TASK = "classification"

SYSTEM = ("#recycle", "$recycle.bin", "@eadir", "@recycle", "__macosx", "__pycache__", "lost+found")
SYSTEM_FILES = ("desktop.ini", "ehthumbs.db", "thumbs.db")
"""What operating systems and network drives put next to images, in lower case; also everything with a leading dot."""

DEEPEST = 30
"""Folders in folders below the source's own."""

SPLIT_WORDS = {*SPLITS, "eval", "evaluation", "holdout"}
"""Words in the name of a folder that make it look like a split."""


class Settings(Section):
    """Keys of a folder of images.

    Attributes:
        path: the folder; or several, whose classes are merged. An id then begins with the name of its folder. Also on
            object storage, as s3://bucket/photos.
        unlabelled: the name of a folder, among those of the classes, whose images have no label. Of several folders in
            `path`, some may lack it, and those of `splits`.
        labels: whether its folders are classes. False: every image below `path`, at any depth, without a label.
        splits: the folders in `path` that are splits, such as `{train: train, extra: train, evaluation: test}`; `{}` if
            all are classes. None: found by their names.
        exclude: patterns of ids that are left out, such as `thumbs/*` or `*_mask.png`; `*` also matches slashes.
    """

    path: str | list[str]
    unlabelled: str | None = None
    labels: bool = True
    splits: dict[str, Literal["train", "val", "test"]] | None = None
    exclude: tuple[str, ...] = Field(default=(), strict=False)


def rows(settings: Settings, passed: Passed | None = None) -> Iterator[Row]:
    """The images of each folder, sorted by split, class and path, and what is skipped on the way."""
    passed = passed or Passed()
    roots = [place(path) for path in ([settings.path] if isinstance(settings.path, str) else settings.path)]
    names = [root.name for root in roots]
    if not roots or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), "")
        what = f"two folders are called {twice!r}; rename one" if twice else "an empty list; name a folder"
        raise UserError(f"dataset.source.path: {what}")
    where = ", ".join(map(str, roots))
    inside = {path.name for root in roots if settings.splits and root.is_dir() for path, _ in _entries(root)}
    if absent := sorted((settings.splits or {}).keys() - inside):
        raise UserError(f"{where}: no folder {absent[0]!r} there; check dataset.source.splits")
    split_roots = _split_roots(roots) if len(roots) > 1 and settings.labels else {}
    seen: set[str] = set()
    for root in roots:
        for row in _rows(root, settings, seen, passed):
            named = row
            if len(roots) > 1:
                named = replace(row, id=f"{root.name}/{row.id}", split=row.split or split_roots.get(root.name))
            if not row.skipped and any(fnmatchcase(row.id, pattern) for pattern in settings.exclude):
                why = "excluded by dataset.source.exclude"
                named = Row(named.id, b"", problem=why, skipped=True, origin=row.origin)
            yield named
    if settings.unlabelled and settings.unlabelled not in seen:
        raise UserError(f"{where}: no folder {settings.unlabelled!r} there; check dataset.source.unlabelled")


def _split_roots(roots: list[Place]) -> dict[str, str]:
    """The split that each of several roots is, by its name; empty if none looks like one.

    Raises:
        UserError: some look like splits and some do not.
    """
    found = {root.name: split for root in roots if (split := split_of(root.name))}
    if found and len(found) < len(roots):
        others = [repr(root.name) for root in roots if root.name not in found]
        raise UserError(
            f"dataset.source.path: {listed([*map(repr, found)])} look like splits, and {listed(others)} not; put all "
            "into one folder, and write dataset.source.splits"
        )
    return found


def _rows(root: Place, settings: Settings, seen: set[str], passed: Passed) -> Iterator[Row]:
    """The rows of one folder; the names of its classes are added to `seen`."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; check dataset.source.path")
    if not settings.labels:
        if settings.unlabelled or settings.splits is not None:
            raise UserError("dataset.source: labels: false takes neither `unlabelled` nor `splits`; remove them")
        yield from filter(None, _files(root, root, None, None, passed))
        return
    inside = yield from _folders(root, root, passed)
    splits = _splits(root, [folder.name for folder in inside], settings)
    remarks = _remarks_on_folders(inside) if settings.splits is None and not splits else ()
    for folder in inside:
        split = splits.get(folder.name)
        classes = (yield from _folders(folder, root, passed)) if split else [folder]
        for inner in classes:
            if settings.splits is None:
                _refuse_splits_inside(inner)
            seen.add(inner.name)
            label = None if inner.name == settings.unlabelled else inner.name
            empty = True
            for row in _files(inner, root, label, split, passed):
                empty &= row is not None and row.skipped
                if row is not None:
                    yield row if row.skipped else replace(row, remarks=remarks)
            if empty:
                raise UserError(
                    f"{inner}: no images there; remove the folder, or add some ({', '.join(images.FORMATS)})"
                )


def images_below(folder: Place) -> Iterator[tuple[Place, bool]]:
    """Every file below a folder, sorted within each folder, and whether it is an image; without files of the system.

    Raises:
        UserError: a folder cannot be read, or links to one that it is in.
    """
    for path, kind in _entries(folder):
        if kind == "folder":
            _refuse_circle(path)
            yield from images_below(path)
        elif kind == "file":
            yield path, _is_image(path)


def _refuse_circle(path: Place) -> None:
    if isinstance(path, Path) and path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve()):
        raise UserError(f"{path}: a link to a folder that it is in; remove it")


def _splits(root: Place, folders: list[str], settings: Settings) -> dict[str, str]:
    """The split of each folder that is one.

    Raises:
        UserError: some folders seem to be splits and some do not, or the settings do not fit the folders.
    """
    names = [name for name in folders if name != settings.unlabelled]
    if settings.splits is not None:
        if settings.splits and (others := sorted(set(names) - settings.splits.keys())):
            raise UserError(f"{root}: {others[0]!r} is not in dataset.source.splits; add it there, or move it out")
        return {name: settings.splits[name] for name in names if name in settings.splits}
    found = {name: split for name in names if (split := split_of(name))}
    if len(found) == len(names):
        return found
    # A class may also be called `train`; then it holds images.
    seem = [
        name
        for name in names
        if not SPLIT_WORDS.isdisjoint(re.split(r"[^a-z]+", name.lower())) and _holds_folders_only(root / name)
    ]
    if seem:
        words = {name: [split_of(word) for word in re.split(r"[^a-z]+", name.lower())] for name in names}
        guesses = [f"{name}: {next(filter(None, words[name]), 'train')}" for name in names[:6]]
        others = [repr(name) for name in names if name not in seem][:3]
        raise UserError(
            f"{root}: {listed([repr(name) for name in seem[:3]])} look like splits"
            f"{f', and {listed(others)} not' if others else ''}; write dataset.source.splits, such as "
            f"{{{', '.join(guesses)}}}, or {{}} if all folders are classes"
        )
    return {}


def _refuse_splits_inside(folder: Place) -> None:
    """A class must not hold folders of splits, whose images would all come into one."""
    names = [entry.path.name for entry in _entries(folder) if entry.kind == "folder"]
    if len(names) > 1 and all(map(split_of, names)):
        raise UserError(
            f"{folder}: holds the splits {listed(names)}; a split comes before the class, as in "
            f"{folder.parent / names[0] / folder.name}; or write `splits: {{}}` in dataset.source to ignore them"
        )


def _remarks_on_folders(classes: list[Place]) -> tuple[str, ...]:
    """What to ask where several classes hold two or more folders of the same names: those may be the classes."""
    common: set[str] = set()
    for number, folder in enumerate(classes if len(classes) > 1 else ()):
        names = {entry.path.name for entry in _entries(folder) if entry.kind == "folder"}
        common = common & names if number else names
        if len(common) < 2:
            return ()
    if not common:
        return ()
    some = listed([*map(repr, sorted(common)[:3])])
    return (
        f"in folders that all classes have, {some}; if those are the classes, write the folders that hold them into "
        "dataset.source.splits",
    )


def _holds_folders_only(folder: Place) -> bool:
    entries = _entries(folder)
    images_there = any(entry.kind == "file" and _is_image(entry.path) for entry in entries)
    return not images_there and any(entry.kind == "folder" for entry in entries)


class Entry(NamedTuple):
    """Something in a folder; `system` is what is hidden or belongs to the system."""

    path: Place
    kind: Literal["folder", "file", "system"]


def _entries(folder: Place) -> list[Entry]:
    """What is in a folder, sorted by name."""
    found = []
    for path, is_folder in _children(folder):
        name = path.name.lower()
        system = name.startswith(".") or name in (SYSTEM if is_folder else SYSTEM_FILES)
        found.append(Entry(path, "system" if system else "folder" if is_folder else "file"))
    return found


def _children(folder: Place) -> Sequence[tuple[Place, bool]]:
    """What is in a folder, sorted by name, and whether that is a folder."""
    if isinstance(folder, ObjectPath):
        return folder.children()
    try:
        with os.scandir(folder) as entries:
            return [(Path(entry.path), entry.is_dir()) for entry in sorted(entries, key=lambda entry: entry.name)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}; check its permissions") from None


def _folders(parent: Place, root: Place, passed: Passed) -> Generator[Row, None, list[Place]]:
    """The folders of classes or splits in a folder, which must hold no image of its own; yields what is skipped."""
    folders = []
    for path, kind in _entries(parent):
        if kind == "folder":
            folders.append(path)
        elif passed.first_row(path) is None:
            continue
        elif kind == "system":
            yield _skipped(path, root, "hidden, or of the system")
        elif _is_image(path):
            raise UserError(f"{path}: an image outside the folders of the classes; put it into one")
        else:
            yield _skipped(path, root, "not an image")
    if not folders:
        raise UserError(
            f"{parent}: no folders of classes there; put the images of each class into a folder of its name, or write "
            "`labels: false`"
        )
    return folders


def _files(folder: Place, root: Place, label: str | None, split: str | None, passed: Passed) -> Iterator[Row | None]:
    """Everything in a folder, sorted within each folder; None for an image that has passed."""

    def row(entry: Entry | None) -> Row | None:
        if entry is None:
            return None
        path = entry.path
        if entry.kind == "system":
            return _skipped(path, root, "hidden, or of the system")
        if not _is_image(path):
            return _skipped(path, root, "not an image")
        content, problem = read_image(path)
        at = str(path)
        return Row(_id(path, root), content, label, split, problem=problem, location=Location(at), origin=at)

    # One object after another would wait for the network most of the time.
    yield from mapped(row, _entries_below(folder, root, passed), AT_ONCE if isinstance(root, ObjectPath) else 1)


def _entries_below(folder: Place, root: Place, passed: Passed) -> Iterator[Entry | None]:
    """All entries that are no folders; None for an image that has passed."""
    for entry in _files_below(folder, root):
        if passed.first_row(entry.path) is not None:
            yield entry
        elif entry.kind == "file" and _is_image(entry.path):
            yield None


def _files_below(folder: Place, root: Place) -> Iterator[Entry]:
    """All entries that are no folders. Raises `UserError` if folders are nested without end."""
    if len(_below(folder, root).parts) > DEEPEST:
        raise UserError(
            f"{root}: folders nested more than {DEEPEST} deep, or links that lead to one another; move them away"
        )
    for entry in _entries(folder):
        if entry.kind == "folder":
            _refuse_circle(entry.path)
            yield from _files_below(entry.path, root)
        else:
            yield entry


def _is_image(path: Place) -> bool:
    """Whether a file is an image by its name or its beginning, readable or not."""
    return path.suffix.lower() in (*images.SUFFIXES, *UNREAD) or begins_as_image(path)


def _skipped(path: Place, root: Place, what: str) -> Row:
    return Row(_id(path, root), b"", problem=what, skipped=True, origin=str(path))


def _id(path: Place, root: Place) -> str:
    name = _below(path, root).as_posix()
    if not is_utf8(name):
        raise UserError(
            f"{root}: the name {os.fsencode(name)!r} is not in UTF-8, as in archives of older systems; rename it, with "
            "`convmv` for instance"
        )
    return name


def _below(path: Place, root: Place) -> PurePath:
    return path.relative_to(root)  # type: ignore[arg-type]  # both are here, or both are not
