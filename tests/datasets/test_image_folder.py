"""Folders of images by class, or by split and class."""

import os
from pathlib import Path

import pytest
from PIL import Image

from pipeline.datasets import Location, Row, image_folder, split_of
from pipeline.errors import UserError


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def everything(root: Path, **settings) -> list[Row]:
    return list(image_folder.rows(image_folder.Settings(path=str(root), **settings)))


def read(root: Path, unlabelled: str | None = None, **settings) -> list[Row]:
    return [row for row in everything(root, unlabelled=unlabelled, **settings) if not row.skipped]


def row(root: Path, name: str, label: str | None, split: str | None = None) -> Row:
    return Row(name, name.encode(), label, split, location=Location(str(root / name)))


def test_folders_are_classes_and_bytes_are_kept(tmp_path: Path):
    make(tmp_path, "dog/2.JPG", "cat/b.png", "cat/a/z.webp", "cat/notes.txt", "cat/.hidden.png", "readme.md")
    assert read(tmp_path) == [
        row(tmp_path, "cat/a/z.webp", "cat"),
        row(tmp_path, "cat/b.png", "cat"),
        row(tmp_path, "dog/2.JPG", "dog"),
    ]


def test_what_is_not_an_image_is_skipped_and_listed(tmp_path: Path):
    hidden = ["cat/@eaDir", "cat/.thumbnails", "__MACOSX", ".git"]
    make(tmp_path, *(f"{folder}/b.png" for folder in hidden))
    make(tmp_path, "cat/b.png", "cat/notes.txt", "cat/._b.png", "cat/Thumbs.db", "dog/1.png", "readme.md")
    assert {one.id: one.problem for one in everything(tmp_path) if one.skipped} == {
        **dict.fromkeys([*hidden, "cat/._b.png", "cat/Thumbs.db"], "hidden, or of the system"),
        **dict.fromkeys(["cat/notes.txt", "readme.md"], "not an image"),
    }
    assert [(one.id, one.label) for one in read(tmp_path)] == [("cat/b.png", "cat"), ("dog/1.png", "dog")]


def test_folders_that_all_classes_have_are_remarked(tmp_path: Path):
    make(tmp_path, *(f"{top}/{inner}/1.png" for top in ("trn", "tst") for inner in ("ice", "sea")), "trn/more/2.png")
    (remark,) = {remark for one in read(tmp_path) for remark in one.remarks}
    assert remark.startswith(
        "in folders that all classes have, 'ice', 'sea'; if those are the classes, write the folders"
    )
    assert all(one.remarks for one in read(tmp_path))
    found = read(tmp_path, splits={"trn": "train", "tst": "test"})
    assert [(one.label, one.split, one.remarks) for one in found[:2]] == [("ice", "train", ()), ("more", "train", ())]
    make(tmp_path, "one/sea/1.png")  # one that they share may be anything
    assert not any(one.remarks for one in read(tmp_path, splits={}))
    assert not any(one.remarks for one in read(tmp_path))


def of_several(folders: list[Path], **settings) -> list[tuple[str, object, str | None]]:
    found = image_folder.rows(image_folder.Settings(path=[str(folder) for folder in folders], **settings))
    return [(row.id, row.label, row.split) for row in found if not row.skipped]


def test_classes_of_several_folders_are_merged(tmp_path: Path):
    make(tmp_path, "one/cat/1.png", "one/rest/2.png", "one/cat/1_mask.png", "two/cat/1.png", "two/dog/3.png")
    assert of_several([tmp_path / "one", tmp_path / "two"], unlabelled="rest", exclude=("*_mask.png",)) == [
        ("one/cat/1.png", "cat", None),
        ("one/rest/2.png", None, None),
        ("two/cat/1.png", "cat", None),
        ("two/dog/3.png", "dog", None),
    ]
    with pytest.raises(UserError, match=r"one, .*two: no folder 'rust' there; check dataset.source.unlabelled"):
        of_several([tmp_path / "one", tmp_path / "two"], unlabelled="rust")


def test_several_folders_that_are_called_like_splits_are_splits(tmp_path: Path):
    folders = [tmp_path / name for name in ("train", "Testing")]
    make(tmp_path, "train/cat/1.png", "train/dog/1.png", "Testing/cat/1.png")
    assert of_several(folders) == [
        ("train/cat/1.png", "cat", "train"),
        ("train/dog/1.png", "dog", "train"),
        ("Testing/cat/1.png", "cat", "test"),
    ]
    make(tmp_path, "extra/cat/2.png")
    with pytest.raises(UserError, match=r"path: 'train', 'Testing' look like splits, and 'extra' not; put all"):
        of_several([*folders, tmp_path / "extra"])


def test_of_several_folders_some_may_lack_a_split(tmp_path: Path):
    make(tmp_path, "one/fit/cat/1.png", "one/check/cat/2.png", "two/fit/cat/3.png")
    folders = [tmp_path / "one", tmp_path / "two"]
    assert of_several(folders, splits={"fit": "train", "check": "test"}) == [
        ("one/check/cat/2.png", "cat", "test"),
        ("one/fit/cat/1.png", "cat", "train"),
        ("two/fit/cat/3.png", "cat", "train"),
    ]
    with pytest.raises(UserError, match=r"no folder 'chek' there; check dataset.source.splits"):
        of_several(folders, splits={"fit": "train", "chek": "test"})


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".jp2", ".avif", "", ".dat", ".JPG_large"])
def test_what_pillow_opens_is_an_image_whatever_its_name(tmp_path: Path, suffix: str):
    make(tmp_path, "a/1.png", "b/2.png")
    format = {".jp2": "JPEG2000", ".avif": "AVIF"}.get(suffix, "JPEG")
    Image.new("RGB", (5, 5)).save(tmp_path / "a" / f"x{suffix}", format)
    assert [one.id for one in read(tmp_path)] == ["a/1.png", f"a/x{suffix}", "b/2.png"]


def test_images_of_other_types_are_listed_as_unreadable(tmp_path: Path):
    make(tmp_path, "a/1.png", "a/phone.HEIC", "b/2.png")
    problem = "images of type .heic are not read; convert it to PNG or JPEG"
    assert [one.problem for one in read(tmp_path)] == [None, problem, None]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_not_opened(tmp_path: Path, kind: str):
    make(tmp_path, "a/1.png", "b/2.png")
    os.mkfifo(tmp_path / "a" / "without a suffix")
    assert [(one.id, one.problem) for one in everything(tmp_path) if one.skipped] == [
        ("a/without a suffix", "not an image")
    ]
    if kind == "pipe":
        os.mkfifo(tmp_path / "a" / "odd.png")
    else:
        (tmp_path / "a" / "odd.png").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=rf"odd\.png: is a {kind}, and a file is needed there"):
        read(tmp_path)


def test_a_link_to_a_folder_around_it_is_refused(tmp_path: Path):
    make(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b" / "again").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"again: a link to a folder that it is in"):
        read(tmp_path)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path):
    make(tmp_path, "a/1.png", "b/2.png")
    os.rename(bytes(tmp_path / "a" / "1.png"), bytes(tmp_path / "a") + b"/caf\xe9.png")
    with pytest.raises(UserError, match=r"the name b'a/caf\\xe9.png' is not in UTF-8"):
        read(tmp_path)


def test_folders_of_splits_hold_folders_of_classes(tmp_path: Path):
    make(tmp_path, "train/cat/1.png", "train/dog/2.png", "Test/cat/3.png", "valid/dog/4.png")
    assert read(tmp_path) == [
        row(tmp_path, "Test/cat/3.png", "cat", "test"),
        row(tmp_path, "train/cat/1.png", "cat", "train"),
        row(tmp_path, "train/dog/2.png", "dog", "train"),
        row(tmp_path, "valid/dog/4.png", "dog", "val"),
    ]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("Training", "Testing"), ("train", "test")),
        (("Training", "Test"), ("train", "test")),
        (("Train", "Valid"), ("train", "val")),
        (("train", "val"), ("train", "val")),
        (("training_set", "test_set"), ("train", "test")),
        (("train2017", "val2017"), ("train", "val")),
        (("DEV", "test images"), ("val", "test")),
    ],
)
def test_folders_of_splits_have_many_names(tmp_path: Path, names: tuple[str, str], splits: tuple[str, str]):
    make(tmp_path, *(f"{name}/{label}/1.png" for name in names for label in ("cat", "dog")))
    assert {(one.label, split_of(one.split or "")) for one in read(tmp_path)} == {
        (label, split) for label in ("cat", "dog") for split in splits
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("train", "test", "extra"),
            r"'test', 'train' look like splits, and 'extra' not; write dataset\.source\.splits, such as "
            r"{extra: train, test: test, train: train}, or {} if all folders are classes",
        ),
        (
            ("seg_train", "seg_test"),
            r"'seg_test', 'seg_train' look like splits; write .* {seg_test: test, seg_train: train}",
        ),
        (("train", "evaluation"), r"'evaluation', 'train' look like splits; write"),
    ],
)
def test_a_mixture_of_splits_and_other_folders_is_refused_unless_params_name_the_splits(
    tmp_path: Path, names, message: str
):
    make(tmp_path, *(f"{name}/{label}/1.png" for name in names for label in ("cat", "dog")))
    with pytest.raises(UserError, match=message):
        read(tmp_path)
    said = dict.fromkeys(names, "train") | {names[1]: "test"}
    assert {(one.label, one.split) for one in read(tmp_path, splits=said)} == {
        (label, split) for label in ("cat", "dog") for split in ("train", "test")
    }
    assert {(one.label, one.split) for one in read(tmp_path, splits={})} == {(name, None) for name in names}


def test_splits_that_do_not_fit_the_folders_are_named(tmp_path: Path):
    make(tmp_path, "train/cat/1.png", "more/cat/2.png")
    with pytest.raises(UserError, match=r"no folder 'test' there; check dataset\.source\.splits"):
        read(tmp_path, splits={"test": "test"})
    with pytest.raises(UserError, match=r"'more' is not in dataset\.source\.splits"):
        read(tmp_path, splits={"train": "train"})
    assert [one.label for one in read(tmp_path, "more", splits={"train": "train"})] == [None, "cat"]


def test_splits_inside_a_class_are_refused_with_their_right_place(tmp_path: Path):
    make(tmp_path, *(f"{label}/{split}/1.png" for label in ("cat", "dog") for split in ("train", "test")))
    with pytest.raises(UserError, match=r"cat: holds the splits test, train; a split comes before .* \S+/test/cat; or"):
        read(tmp_path)
    assert [one.label for one in read(tmp_path, splits={})] == ["cat", "cat", "dog", "dog"]


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


def test_an_image_that_cannot_be_opened_is_a_row_with_the_reason(tmp_path: Path):
    make(tmp_path, "cat/1.png")
    (tmp_path / "cat" / "2.png").symlink_to(tmp_path / "gone.png")
    assert [one.problem for one in read(tmp_path)] == [None, "cannot be read: No such file or directory"]


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere: no such folder; check dataset\.source\.path"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no folders of classes there"):
        read(tmp_path)


def test_a_folder_for_rows_without_labels_that_is_not_there_is_named(tmp_path: Path):
    make(tmp_path, "cat/1.png", "dog/2.png")
    with pytest.raises(UserError, match="no folder 'extra'"):
        read(tmp_path, "extra")
