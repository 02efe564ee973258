"""Folders of images by class, or by split and class."""

from pathlib import Path

import pytest

from pipeline.datasets import Row, image_folder
from pipeline.errors import UserError


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def read(root: Path, unlabelled: str | None = None) -> list[Row]:
    return list(image_folder.rows(image_folder.Settings(path=str(root), unlabelled=unlabelled)))


def row(name: str, label: str | None, split: str | None = None) -> Row:
    return Row(name, name.encode(), label, split)


def test_folders_are_classes_and_bytes_are_kept(tmp_path: Path):
    make(tmp_path, "dog/2.JPG", "cat/b.png", "cat/a/z.webp", "cat/notes.txt", "cat/.hidden.png", "readme.md")
    assert read(tmp_path) == [row("cat/a/z.webp", "cat"), row("cat/b.png", "cat"), row("dog/2.JPG", "dog")]


def test_folders_of_splits_hold_folders_of_classes(tmp_path: Path):
    make(tmp_path, "train/cat/1.png", "train/dog/2.png", "Test/cat/3.png", "valid/dog/4.png")
    assert read(tmp_path) == [
        row("Test/cat/3.png", "cat", "Test"),
        row("train/cat/1.png", "cat", "train"),
        row("train/dog/2.png", "dog", "train"),
        row("valid/dog/4.png", "dog", "valid"),
    ]


def test_a_class_may_be_called_like_a_split(tmp_path: Path):
    make(tmp_path, "train/1.png", "car/2.png")
    assert [one.label for one in read(tmp_path)] == ["car", "train"]


def test_a_named_folder_holds_images_without_labels(tmp_path: Path):
    by_class = make(tmp_path / "a", "cat/1.png", "dog/2.png", "extra/3.png")
    assert [one.label for one in read(by_class, "extra")] == ["cat", "dog", None]
    by_split = make(tmp_path / "b", "train/cat/1.png", "train/extra/2.png", "test/cat/3.png", "extra/4.png")
    assert {one.id: (one.label, one.split) for one in read(by_split, "extra")} == {
        "extra/4.png": (None, None),
        "test/cat/3.png": ("cat", "test"),
        "train/cat/1.png": ("cat", "train"),
        "train/extra/2.png": (None, "train"),
    }


def test_an_empty_class_is_named(tmp_path: Path):
    make(tmp_path, "cat/1.png", "dog/notes.txt")
    with pytest.raises(UserError, match=r"dog: no images there"):
        read(tmp_path)


def test_an_image_outside_the_classes_is_named(tmp_path: Path):
    make(tmp_path, "cat/1.png", "stray.jpg")
    with pytest.raises(UserError, match=r"stray\.jpg: an image outside the folders of the classes"):
        read(tmp_path)


def test_an_image_that_cannot_be_opened_is_named(tmp_path: Path):
    make(tmp_path, "cat/1.png")
    (tmp_path / "cat" / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"2\.png: cannot be read: No such file"):
        read(tmp_path)


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere: no such folder; check dataset\.source\.path"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no folders of classes there"):
        read(tmp_path)


def test_a_folder_for_rows_without_labels_that_is_not_there_is_named(tmp_path: Path):
    make(tmp_path, "cat/1.png", "dog/2.png")
    with pytest.raises(UserError, match="no folder 'extra'"):
        read(tmp_path, "extra")
