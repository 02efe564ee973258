"""Preparing a dataset: from good sources, bad ones, and twice."""

import csv
import io
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.dataset import QUARANTINE, Dataset, content_digest
from pipeline.data.duplicates import words_digest
from pipeline.data.preparation import Preparation, PrepareSettings, prepare
from pipeline.datasets import Row, tweets
from pipeline.errors import UserError
from pipeline.params import parse

NAMES = {"content.arrow", "rows.parquet", "manifest.json", "quarantine.csv"}


def run(out: Path, source: dict, **keys) -> Preparation:
    return prepare(parse(PrepareSettings, {"source": source, **keys}, "dataset"), out)


def write(path: Path, rows: list[dict]) -> dict:
    """A table of rows, as the settings of a source that reads all its columns."""
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    columns = {f"{name}_column": name for name in ("id", "label", "split", "group") if name in rows[0]}
    return {"family": "text_table", "path": str(path), **columns}


def texts(number: int = 90, **columns: list) -> list[dict]:
    """Rows of three classes, none like another."""
    rows = [{"id": f"r{n:03}", "text": f"text number {n}", "label": "abc"[n % 3]} for n in range(number)]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def quarantine(folder: Path) -> list[list[str]]:
    with (folder / QUARANTINE).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def sizes() -> dict:
    return {"val": 9, "test": 15, "labelled": 12}


def test_a_table_is_copied_with_ids_labels_and_roles(tmp_path: Path, sizes: dict):
    rows = texts()
    rows[4]["label"] = None
    done = run(tmp_path / "data", write(tmp_path / "t.jsonl", rows), splits=2, **sizes)
    data = Dataset.open(tmp_path / "data")
    assert (done.rows, done.classes, done.digest) == (90, ("a", "b", "c"), data.digest)
    assert done.roles == {"labelled": 12, "unlabelled": 54, "val": 9, "test": 15}
    assert list(data.ids) == [row["id"] for row in rows]
    assert data.content(range(90)) == [row["text"] for row in rows]
    assert data.labels.tolist() == [-1 if n == 4 else n % 3 for n in range(90)]
    assert {path.name for path in (tmp_path / "data").iterdir()} == NAMES
    assert {path.name for path in tmp_path.iterdir()} == {"data", "t.jsonl"}


@pytest.mark.parametrize("family", ["tweets", "digits"])
def test_a_second_run_gives_the_same_bytes(tmp_path: Path, family: str):
    for name in ("one", "two"):
        run(tmp_path / name, {"family": family}, limit=900, splits=3, val=90, test=180, labelled=60)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_second_run_in_the_same_place_gives_the_same_bytes(tmp_path: Path):
    source = write(tmp_path / "t.jsonl", texts())
    run(tmp_path / "data", source)
    before = contents(tmp_path / "data")
    run(tmp_path / "data", source, seed=1)
    assert contents(tmp_path / "data") != before
    run(tmp_path / "data", source)
    assert contents(tmp_path / "data") == before


def test_the_digest_depends_on_ids_and_content_and_on_nothing_else(tmp_path: Path):
    def digest(rows: list[dict], **keys) -> str:
        return run(tmp_path / "data", write(tmp_path / "t.jsonl", rows), **keys).digest

    first = digest(texts())
    content = (tmp_path / "data" / "content.arrow").read_bytes()
    assert digest(texts(label=["cab"[n % 3] for n in range(90)]), seed=5, val=7, splits=3) == first
    assert (tmp_path / "data" / "content.arrow").read_bytes() == content
    assert digest(texts(group=[f"g{n // 2}" for n in range(90)])) == first
    assert digest(texts(text=["changed", *(f"text number {n}" for n in range(1, 90))])) != first
    assert digest(texts(id=["other", *(f"r{n:03}" for n in range(1, 90))])) != first
    assert digest(list(reversed(texts()))) != first
    assert digest(texts(89)) != first


def test_the_manifest_counts_what_is_there(tmp_path: Path, sizes: dict):
    rows = texts()
    rows[0]["label"] = None
    run(tmp_path / "data", write(tmp_path / "t.jsonl", rows), splits=2, **sizes)
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    data = Dataset.open(tmp_path / "data")
    assert (manifest["kind"], manifest["rows"], manifest["without_label"]) == ("text", 90, 1)
    for draw in range(2):
        split = data.split(draw)
        for role, counts in manifest["rows_of_class"][draw].items():
            labels = data.labels[getattr(split, role)]
            assert counts == [int((labels == number).sum()) for number in range(3)]
    table = pq.read_table(tmp_path / "data" / "rows.parquet")
    assert table.column_names == ["id", "label", "group", "split_0", "split_1"]
    assert table["id"].to_pylist() == list(data.ids)


def test_the_tweets_have_no_duplicates_across_splits(tmp_path: Path):
    keys = {"deduplicate": "token_set", "splits": 2, "val": 2000, "test": 6000, "labelled": 400}
    done = run(tmp_path / "data", {"family": "tweets", "min_confidence": 0.6}, **keys)
    votes: dict[bytes, Counter] = defaultdict(Counter)
    for row in tweets.rows(tweets.Settings(min_confidence=0.6)):
        votes[words_digest(row.content)][row.label] += 1
    undecided = [labels for labels in votes.values() if list(labels.values()).count(max(labels.values())) > 1]
    assert len(votes) == 29_712
    assert done.rows == len(votes) - len(undecided)
    assert done.dropped["duplicate"] + done.dropped["label differs among duplicates"] == 30_640 - done.rows
    data = Dataset.open(tmp_path / "data")
    everything = data.content(range(len(data)))
    assert len({words_digest(text) for text in everything}) == len(everything)
    for draw in range(2):
        split = data.split(draw)
        sides = [{tweets.wording(everything[row]) for row in rows} for rows in (split.train, split.val, split.test)]
        assert sides[0].isdisjoint(sides[1])
        assert sides[0].isdisjoint(sides[2])
        assert sides[1].isdisjoint(sides[2])
        assert (len(split.labelled), len(split.val), len(split.test)) == (400, 2000, 6000)


def test_every_row_left_out_is_listed_with_its_reason(tmp_path: Path):
    rows = [
        *texts(60),
        {"id": "duplicate", "text": "TEXT number: 3", "label": "a"},
        {"id": "against", "text": "number text 3", "label": "b"},
        {"id": "even 1", "text": "so so", "label": "a"},
        {"id": "even 2", "text": "so", "label": "b"},
        {"id": "blank", "text": " \n", "label": "a"},
        {"id": "half an emoji", "text": "\ud83d", "label": "a"},
    ]
    source = write(tmp_path / "t.jsonl", rows)
    done = run(tmp_path / "data", source, deduplicate="token_set", tolerance=0.05, limit=50)
    listed = quarantine(tmp_path / "data")
    assert [line for line in listed if line[3] != "over the limit"] == [
        ["61", "61", "duplicate", "duplicate", "see r003"],
        ["62", "62", "against", "label differs among duplicates", "see r003"],
        ["63", "63", "even 1", "label differs among duplicates", "see even 2"],
        ["64", "64", "even 2", "label differs among duplicates", "see even 1"],
        ["65", "65", "blank", "unreadable", "empty text"],
        ["66", "66", "half an emoji", "unreadable", "not valid Unicode"],
    ]
    assert done.dropped == {
        "unreadable": 2,
        "skipped": 0,
        "duplicate": 1,
        "label differs among duplicates": 3,
        "no label, and its group is in val or test": 0,
        "over the limit": 10,
    }
    left = list(Dataset.open(tmp_path / "data").ids)
    assert sorted([*left, *(line[2] for line in listed)]) == sorted(row["id"] for row in rows)


def test_a_result_says_in_words_what_was_done(tmp_path: Path, sizes: dict):
    rows = texts()
    rows[0] |= {"label": None, "text": "text number 1"}
    done = run(tmp_path / "data", write(tmp_path / "t.jsonl", rows), **sizes)
    assert str(done).splitlines() == [
        f"{tmp_path}/data: 89 texts of 3 classes: 12 labelled, 53 unlabelled, 9 val, 15 test",
        f"90 rows seen = 89 used + 1 duplicate (listed in {tmp_path}/data/quarantine.csv)",
    ]


@pytest.mark.parametrize(("deduplicate", "rows"), [("none", 63), ("exact", 61), ("token_set", 60)])
def test_duplicates_are_dropped_as_far_as_asked(tmp_path: Path, deduplicate: str, rows: int):
    copies = [{"id": f"copy {n}", "text": "text number 3", "label": "a"} for n in range(2)]
    source = write(tmp_path / "t.jsonl", [*texts(60), *copies, {"id": "like", "text": "Number 3 text", "label": "a"}])
    assert run(tmp_path / "data", source, deduplicate=deduplicate).rows == rows


def test_a_limit_takes_every_class_of_every_split_in_proportion(tmp_path: Path):
    rows = texts(split=["test" if n % 3 == 0 and n < 45 else "train" for n in range(90)])
    done = run(tmp_path / "data", write(tmp_path / "t.jsonl", rows), limit=30, val=6)
    data = Dataset.open(tmp_path / "data")
    assert done.rows == 30
    assert np.bincount(data.labels).tolist() == [10, 10, 10]
    assert len(data.split(0).test) == 5


def test_a_limit_takes_the_same_rows_in_any_order(tmp_path: Path):
    run(tmp_path / "one", write(tmp_path / "t.jsonl", texts()), limit=45)
    run(tmp_path / "two", write(tmp_path / "t.jsonl", texts()[::-1]), limit=45)
    one, two = (list(Dataset.open(tmp_path / name).ids) for name in ("one", "two"))
    assert one == two[::-1]
    assert one != [f"r{n:03}" for n in range(45)]


def test_unlabelled_rows_of_a_group_held_out_are_left_out_of_training(tmp_path: Path):
    rows = texts(split=["test" if n < 15 else "train" for n in range(90)], group=[f"g{n % 45}" for n in range(90)])
    for n in range(15, 90):
        rows[n]["group"] = f"h{n}"
    rows[50] |= {"group": "g3", "label": None}
    run(tmp_path / "data", write(tmp_path / "t.jsonl", rows), val=6)
    assert quarantine(tmp_path / "data") == [["51", "51", "r050", "no label, and its group is in val or test", ""]]


def test_official_test_rows_without_a_label_become_training_rows_and_a_note(tmp_path: Path):
    rows = texts(split=["test" if n < 15 else "train" for n in range(90)])
    rows[0]["label"] = rows[1]["label"] = None
    done = run(tmp_path / "data", write(tmp_path / "t.jsonl", rows), val=6)
    assert done.notes == ("2 rows of val or test without a label: for training, as rows without one",)
    assert Dataset.open(tmp_path / "data").split(0).unlabelled.tolist() == [0, 1]


def test_a_table_without_labels_is_there_to_be_extracted(tmp_path: Path):
    rows = [{"text": f"text {n}"} for n in range(9)]
    done = run(tmp_path / "data", write(tmp_path / "t.jsonl", rows))
    data = Dataset.open(tmp_path / "data")
    assert (done.classes, data.labels.tolist()) == ((), [-1] * 9)
    assert len(data.split(0).unlabelled) == 9
    assert "nothing can be trained" in done.notes[0]


def test_classes_are_sorted_as_numbers_if_they_are_or_as_declared(tmp_path: Path):
    source = write(tmp_path / "t.jsonl", texts(label=[("10", "9", "100")[n % 3] for n in range(90)]))
    with pytest.raises(UserError, match="the labels are numbers, such as 10, 9, 100: write `task: regression`"):
        run(tmp_path / "data", source)
    assert run(tmp_path / "data", source, task="classification").classes == ("9", "10", "100")
    source = write(tmp_path / "t.jsonl", texts())
    assert run(tmp_path / "data", source, classes=["c", "a", "b"]).classes == ("c", "a", "b")
    assert Dataset.open(tmp_path / "data").labels[:3].tolist() == [1, 2, 0]


@given(st.integers(0, 2**32), st.integers(80, 160), st.integers(40, 400), st.integers(20, 200))
@settings(max_examples=20, deadline=None)
def test_no_label_shows_outside_the_labelled_rows_and_every_row_has_one_role(
    tmp_path_factory: pytest.TempPathFactory, seed: int, number: int, wordings: int, groups: int
):
    noise = random.Random(seed)
    rows = [
        {
            "id": str(n),
            "text": f"words {noise.randrange(wordings)} here",
            "label": noise.choice(["a", "b", "b", None]),
            "group": noise.choice([None, None, None, str(noise.randrange(groups))]),
        }
        for n in range(number)
    ]
    folder = tmp_path_factory.mktemp("images")
    try:
        run(folder / "data", write(folder / "t.jsonl", rows), splits=2, val=0.1, test=0.2, labelled=0.4)
    except UserError:  # groups with unlabelled rows can leave too few rows to draw from
        reject()
    data = Dataset.open(folder / "data")
    for draw in range(2):
        split = data.split(draw)
        together = np.concatenate([split.labelled, split.unlabelled, split.val, split.test])
        assert sorted(together.tolist()) == list(range(len(data)))
        visible = data.visible_labels(draw)
        np.testing.assert_array_equal(np.flatnonzero(visible >= 0), split.labelled)
        np.testing.assert_array_equal(visible[split.labelled], data.labels[split.labelled])
        assert (data.labels[np.concatenate([split.val, split.test, split.labelled])] >= 0).all()
        group = {row["id"]: row["group"] for row in rows}
        sides = [{group[name] for name in data.ids[part]} - {None} for part in (split.train, split.val, split.test)]
        assert sides[0].isdisjoint(sides[1] | sides[2])
        assert sides[1].isdisjoint(sides[2])


# Images


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((6, 5, 3), value, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Forty images of two classes, PNG and JPEG."""
    for n in range(40):
        path = tmp_path / "images" / ("cat", "dog")[n % 2] / f"{n:02}.{('png', 'jpg')[n // 20]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((png, jpeg)[n // 20](n))
    return tmp_path / "images"


def test_images_keep_their_encoded_bytes(tmp_path: Path, images: Path):
    run(tmp_path / "data", {"family": "image_folder", "path": str(images)})
    data = Dataset.open(tmp_path / "data")
    assert data.kind == "image"
    assert data.content(range(40)) == [(images / name).read_bytes() for name in data.ids]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("00.png", lambda content: content[:-30]),
        ("00.png", lambda content: b"<html>not found</html>"),
        ("00.png", lambda content: b""),
        ("20.jpg", lambda content: content[: len(content) // 2]),
        ("00.png", lambda content: content[:50] + bytes([content[50] ^ 255]) + content[51:]),
    ],
)
def test_an_image_that_does_not_decode_is_refused_listed_or_tolerated(tmp_path: Path, images: Path, name: str, damage):
    path = images / "cat" / name
    path.write_bytes(damage(path.read_bytes()))
    source = {"family": "image_folder", "path": str(images)}
    with pytest.raises(
        UserError, match=rf"1 of 40 rows cannot be read, the first is row cat/{name}: not an image: "
    ) as bad:
        run(tmp_path / "data", source)
    assert "\n" not in str(bad.value)
    assert not (tmp_path / "data").exists()
    with (tmp_path / "data.quarantine.csv").open() as file:
        assert next(csv.DictReader(file))["id"] == f"cat/{name}"

    done = run(tmp_path / "data", source, tolerance=0.03)
    assert (done.rows, done.dropped["unreadable"]) == (39, 1)
    assert quarantine(tmp_path / "data")[0][1:4] == ["", f"cat/{name}", "unreadable"]
    assert not (tmp_path / "data.quarantine.csv").exists()


def test_what_is_odd_about_images_is_noted(tmp_path: Path, images: Path):
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(images / "cat" / "00.png")
    done = run(tmp_path / "data", {"family": "image_folder", "path": str(images)})
    assert done.notes == (
        "19 images: one colour throughout (the first is row cat/02.png)",
        "1 image: grey of more than 8 bits; each is scaled from its own darkest and brightest pixel (the first is row "
        "cat/00.png)",
    )


def test_unreadable_images_are_listed_in_the_same_words_each_time(tmp_path: Path, images: Path):
    for number, content in enumerate([b"", b"<html>", jpeg(5)[:100], png(3)[:40]]):
        (images / "cat" / f"bad{number}.jpg").write_bytes(content)
    for name in ("one", "two"):
        run(tmp_path / name, {"family": "image_folder", "path": str(images)}, tolerance=0.2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(quarantine(tmp_path / "one")) == 4


def test_files_that_are_not_images_are_counted_and_listed(tmp_path: Path, images: Path):
    (images / "cat" / "notes.txt").write_text("a note")
    (images / "dog" / "@eaDir").mkdir()
    (images / "dog" / "@eaDir" / "thumb.jpg").write_bytes(jpeg(1))
    (images / "cat" / "00.png").unlink()
    (images / "cat" / "00.png").symlink_to("nowhere")
    source = {"family": "image_folder", "path": str(images)}
    with pytest.raises(
        UserError, match=r"1 of 40 rows cannot be read, the first is row cat/00\.png: cannot be read: No"
    ):
        run(tmp_path / "data", source)
    done = run(tmp_path / "data", source, tolerance=0.03)
    assert f"42 rows seen = 39 used + 1 unreadable + 2 skipped (listed in {tmp_path}/data/quarantine.csv)" in str(done)
    assert [line[2:] for line in quarantine(tmp_path / "data")] == [
        ["cat/00.png", "unreadable", "cannot be read: No such file or directory"],
        ["cat/notes.txt", "skipped", "not an image"],
        ["dog/@eaDir", "skipped", "hidden, or of the system"],
    ]


# Names


def test_labels_are_compared_as_people_see_them(tmp_path: Path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    names = [f" {composed}", apart, "neg", " neg\n", "neg\u00a0", composed]
    rows = texts(label=[names[n % 6] for n in range(90)], group=[f" g{n}" if n % 2 else f"g{n}" for n in range(90)])
    done = run(tmp_path / "data", write(tmp_path / "t.jsonl", rows), classes=[apart, "neg "])
    assert done.classes == (composed, "neg")
    assert Dataset.open(tmp_path / "data").labels[:6].tolist() == [0, 0, 1, 1, 1, 0]
    groups = pq.read_table(tmp_path / "data" / "rows.parquet", columns=["group"])["group"].to_pylist()
    assert groups == [f"g{n}" for n in range(90)]


def test_a_label_of_spaces_is_no_label(tmp_path: Path):
    rows = texts(label=[" " if n == 0 else "ab"[n % 2] for n in range(90)])
    assert run(tmp_path / "data", write(tmp_path / "t.jsonl", rows)).classes == ("a", "b")
    assert Dataset.open(tmp_path / "data").labels[0] == -1


@pytest.mark.parametrize("label", ["-1", "?", "nan", "None", "N/A", "\\N", "<NA>"])
def test_a_class_that_may_stand_for_no_label_is_refused(tmp_path: Path, label: str):
    source = write(tmp_path / "t.jsonl", texts(label=[label if n % 9 == 4 else "ab"[n % 2] for n in range(90)]))
    for task in ({}, {"task": "classification"}):
        with pytest.raises(
            UserError, match=r"row r004 \(line 5\): the label '.*' looks like none; write dataset.no_label"
        ):
            run(tmp_path / "data", source, **task)
    assert run(tmp_path / "data", source, no_label=[label]).classes == ("a", "b")
    assert np.flatnonzero(Dataset.open(tmp_path / "data").labels < 0).tolist() == list(range(4, 90, 9))
    for classes in ({"no_label": []}, {"classes": ["b", label, "a"]}):
        assert set(run(tmp_path / "data", source, **classes).classes) == {"a", "b", label}


@pytest.mark.parametrize(("label", "cell"), [("?", "?"), ("N/A", ["N/A"]), ("-1", [-1])])
def test_one_of_several_labels_that_may_stand_for_none_is_refused(tmp_path: Path, label: str, cell: object):
    rows = texts(label=[cell if n % 9 == 4 else (["a", "b"], ["a"], ["b"])[n % 3] for n in range(90)])
    source = write(tmp_path / "t.jsonl", rows)
    for task in ({}, {"task": "multilabel"}):
        with pytest.raises(UserError, match=rf"row r004 \(line 5\): the label '{re.escape(label)}' looks like none"):
            run(tmp_path / "data", source, **task)
    assert run(tmp_path / "data", source, no_label=[]).classes == tuple(sorted(["a", "b", label]))
    assert run(tmp_path / "data", source, no_label=[label]).classes == ("a", "b")
    assert np.flatnonzero(Dataset.open(tmp_path / "data").labels[:, 0] < 0).tolist() == list(range(4, 90, 9))
    source = write(tmp_path / "t.jsonl", [*rows, {"id": "x", "text": "t", "label": [label, "a"]}])
    with pytest.raises(
        UserError, match=r"row x \(line 91\): the label .*, which .*no_label says is none, is there with"
    ):
        run(tmp_path / "data", source, no_label=[label])


def test_rows_with_an_empty_label_are_told_from_rows_with_none_of_several(tmp_path: Path):
    cells: list[object] = [["a", "b"], ["a"], [], None]
    source = write(tmp_path / "t.jsonl", texts(label=[cells[n % 4] for n in range(90)]))
    said = str(run(tmp_path / "data", source, task="multilabel"))
    assert "note: 22 rows with an empty label, used without labels; a row that has none of them is `[]`" in said
    assert (Dataset.open(tmp_path / "data").labels == -1).all(1).sum() == 22
    source = write(tmp_path / "t.jsonl", texts(label=[cells[n % 3] for n in range(90)]))
    assert "empty label" not in str(run(tmp_path / "data", source, task="multilabel"))


def test_numbers_that_mean_no_label_are_compared_by_value(tmp_path: Path):
    labels = [-1 if n % 3 else float(n % 2) for n in range(90)]
    source = write(tmp_path / "t.jsonl", texts(label=labels))
    assert run(tmp_path / "data", source, task="classification", no_label=[-1.0]).classes == ("0", "1")
    assert run(tmp_path / "data", source, task="regression").rows == 90
    assert Dataset.open(tmp_path / "data").labels.min() == -1
    run(tmp_path / "data", source, task="regression", no_label=[-1])
    assert np.isnan(Dataset.open(tmp_path / "data").labels).sum() == 60


def test_remarks_on_rows_and_their_files_are_printed(tmp_path: Path):
    for name in ("a", "b"):
        lines = [
            f'"text\nof {name}{n}",{"xy"[n % 2]}' if n % 9 == 3 else f"text {name}{n},{'xy'[n % 2]}" for n in range(30)
        ]
        content = "\n".join(["text,label", *lines, "caf\u00e9,x" if name == "b" else ""])
        (tmp_path / f"{name}.csv").write_bytes(content.encode("latin-1"))
    source = {"family": "text_table", "path": str(tmp_path / "?.csv"), "label_column": "label"}
    with pytest.raises(
        UserError, match=r"1 of 61 rows cannot be read, the first is row \w+ \(line 35 of .*b.csv\): byte 0xe9"
    ):
        run(tmp_path / "data", source)
    done = run(tmp_path / "data", source, tolerance=0.1)
    first = Dataset.open(tmp_path / "data").ids[3]
    assert done.notes == (
        f"6 rows: a cell in quotes spans several lines (the first is row {first} (line 5 of {tmp_path}/a.csv))",
    )
    assert quarantine(tmp_path / "data")[0][1] == f"{tmp_path}/b.csv:35"
    twice = {**source, "path": [str(tmp_path / "a.csv")] * 1 + [str(tmp_path / "c.csv")], "id_column": "text"}
    (tmp_path / "c.csv").write_text("text,label\nnew,x\ntext a1,y\n")
    with pytest.raises(UserError, match=r"line 3 of .*a.csv and line 3 of .*c.csv have the same id, text a1"):
        run(tmp_path / "data", twice)


def test_classes_that_look_alike_are_noted(tmp_path: Path):
    rows = texts(label=[("Neg", "neg", "pos\u200b", "pos", "other")[n % 5] for n in range(90)])
    assert run(tmp_path / "data", write(tmp_path / "t.jsonl", rows)).notes == (
        "classes 'Neg' and 'neg' look alike; if they are one, correct the labels",
        "classes 'pos' and 'pos\\u200b' look alike; if they are one, correct the labels",
    )
    rows = texts(label=[("01", "1", "2", "1e0")[n % 4] for n in range(90)])
    assert run(tmp_path / "data", write(tmp_path / "t.jsonl", rows), task="classification").notes == (
        "classes '01' and '1' look alike; if they are one, correct the labels",
        "classes '01' and '1e0' look alike; if they are one, correct the labels",
    )


@pytest.mark.parametrize("column", ["id", "label", "group"])
def test_half_a_character_in_a_name_is_refused(tmp_path: Path, column: str):
    rows = texts(group=[f"g{n}" for n in range(90)])
    rows[3][column] = "x\ud83d"
    with pytest.raises(UserError, match=rf"row '.*' \(line 4\): its {column} 'x\\ud83d' holds half a character") as bad:
        run(tmp_path / "data", write(tmp_path / "t.jsonl", rows))
    str(bad.value).encode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("t\0e\0x\0t", "NUL characters in the text; is its encoding right?"),
        (
            "映画".encode("iso2022_jp").decode("ascii"),  # seven bits, and so valid UTF-8
            "escape sequences as of ISO-2022; set dataset.source.encoding, such as iso2022_jp",
        ),
    ],
)
def test_a_text_in_another_encoding_that_is_valid_utf_8_is_unreadable(tmp_path: Path, text: str, reason: str):
    rows = texts()
    rows[2]["text"] = text
    run(tmp_path / "data", write(tmp_path / "t.jsonl", rows), tolerance=0.05)
    assert quarantine(tmp_path / "data")[0][3:] == ["unreadable", reason]


# Bad input


def repeated() -> list[dict]:
    return [*texts(), {"id": "r004", "text": "another", "label": "a"}]


def torn() -> list[dict]:
    return texts(split=["test" if n < 15 else "train" for n in range(90)], group=[f"g{n % 30}" for n in range(90)])


BAD = {
    "label outside classes": (
        texts(),
        {"classes": ["a", "b"]},
        r"row r002 \(line 3\): label 'c' is not in dataset\.classes: a, b",
    ),
    "empty class": (texts(), {"classes": ["a", "b", "c", "d"]}, r"dataset\.classes: no row has the label 'd'"),
    "class twice": (texts(), {"classes": ["a", "b", "c", "a"]}, r"dataset\.classes: a name occurs twice"),
    "one class": (texts(label=["a"] * 90), {}, "all rows have the label 'a'"),
    "id twice": (repeated(), {}, "line 5 and line 91 have the same id, r004"),
    "unknown split": (
        texts(split=["held"] * 90),
        {},
        r"row r000 \(line 1\): no split is called 'held'; write train, val or test",
    ),
    "group across splits": (
        torn(),
        {},
        r"row r0.. \(line \d+\) and row r0.. \(line \d+\) are of one group, but in different splits",
    ),
    "too few for a class": (texts(7), {}, r"dataset\.test: class 'b' has 2 rows to choose from and needs 3"),
    "limit too small": (texts(), {"limit": 2}, r"dataset\.limit: 2 rows for every .* raise it to 3"),
    "sizes too large": (texts(), {"val": 80, "test": 20}, r"dataset\.val: 80 of 70 rows to choose from"),
    "too many unreadable": (texts(text=["", *"x" * 89]), {"deduplicate": "none"}, "1 of 90 rows cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_what_was_there(tmp_path: Path, name: str):
    run(tmp_path / "data", write(tmp_path / "good.jsonl", texts()))
    before = contents(tmp_path / "data")
    rows, keys, message = BAD[name]
    with pytest.raises(UserError, match=message) as bad:
        run(tmp_path / "data", write(tmp_path / "bad.jsonl", rows), **keys)
    assert "\n" not in str(bad.value)
    assert contents(tmp_path / "data") == before
    assert not (tmp_path / ".data.partial").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"val": 0}, r"dataset\.val: should be a number of rows from 1, or a share between 0 and 1, found 0"),
        ({"test": 1.5}, r"dataset\.test: should be a number of rows from 1, or a share between 0 and 1, found 1\.5"),
        ({"val": "most"}, r"dataset\.val: should be a number of rows from 1, .* found 'most'"),
        ({"val": "1e-1"}, r"dataset\.val: '1e-1' is text to YAML; write 1\.0e-1"),
        ({"test": True}, r"dataset\.test: should be a number of rows"),
        ({"test": None}, r"dataset\.test: should be a number of rows from 1, .* found None"),
        ({"labelled": -3}, r"dataset\.labelled: should be a number of rows"),
        (
            {"deduplicate": "fuzzy"},
            r"dataset\.deduplicate: should be 'none', 'exact', .*found 'fuzzy'",
        ),
        ({"limits": 5}, r"unknown key `limits` \(did you mean `limit`\?\)"),
        ({"splits": 0}, r"dataset\.splits: should be greater than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(keys: dict, message: str):
    with pytest.raises(UserError, match=message):
        parse(PrepareSettings, {"source": {"family": "digits"}, **keys}, "dataset")


def test_an_empty_source_is_refused(tmp_path: Path):
    (tmp_path / "t.csv").write_text("text,label\n")
    with pytest.raises(UserError, match=r"dataset\.source: it has no rows"):
        run(tmp_path / "data", {"family": "text_table", "path": str(tmp_path / "t.csv")})


class Changing:
    """A source that says something else the second time."""

    KIND = "text"

    def __init__(self, first: list[Row], second: list[Row]):
        self.passes = iter([first, second])

    def rows(self, settings: object) -> Iterator[Row]:
        return iter(next(self.passes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "row 29 has gone meanwhile"),
        (lambda rows: [*rows, Row("30", "new", "a")], "row 30 is new"),
        (lambda rows: [Row("0", "changed", "a"), *rows[1:]], "row 0 has changed meanwhile"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "row 1 is new"),
    ],
)
def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch, change, message: str):
    rows = [Row(str(n), f"text {n}", "ab"[n % 2]) for n in range(30)]
    family = Changing(rows, change(rows))
    monkeypatch.setattr("pipeline.data.sources.read_plugin", lambda *_: (family, None))
    with pytest.raises(UserError, match=message):
        run(tmp_path / "data", {"family": "digits"})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/data: a part of this path is a file"):
        run(tmp_path / "file" / "data", write(tmp_path / "t.jsonl", texts()))


def test_unreadable_rows_are_reported_even_if_their_list_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    source = write(tmp_path / "t.jsonl", texts(text=["", *map(str, range(89))]))
    with pytest.raises(UserError, match=r"1 of 90 rows cannot be read, the first is row r000 .*no list of them"):
        run(tmp_path / "file" / "data", source)


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path):
    left = tmp_path / ".data.partial" / "content.arrow"
    left.parent.mkdir()
    left.write_bytes(b"half a file")
    run(tmp_path / "data", write(tmp_path / "t.jsonl", texts()))
    assert not left.parent.exists()
    assert {path.name for path in (tmp_path / "data").iterdir()} == NAMES
    Dataset.open(tmp_path / "data").verify()


@pytest.mark.parametrize("moves", [0, 1, 2, 3])
def test_a_run_that_dies_while_moving_its_files_leaves_an_unfinished_folder(tmp_path: Path, monkeypatch, moves: int):
    source = write(tmp_path / "t.jsonl", texts())
    run(tmp_path / "data", source)

    class Killed(BaseException):
        pass

    def replace(one: Path, other: Path, count: list[int] = [0]) -> None:  # noqa: B006
        if other.parent == tmp_path / "data":  # and not the manifest, where it is written
            if count[0] == moves:
                raise Killed
            count[0] += 1
        one.rename(other)

    monkeypatch.setattr("pipeline.data.preparation.os.replace", replace)
    with pytest.raises(Killed):
        run(tmp_path / "data", source, seed=1)
    with pytest.raises(UserError, match="run `aft prepare` first"):
        Dataset.open(tmp_path / "data")


def test_large_content_is_written_in_several_batches(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("pipeline.data.copying.BATCH_BYTES", 100)
    monkeypatch.setattr("pipeline.data.copying.BATCH_ROWS", 7)
    noise = random.Random(0)
    rows = texts(text=[f"{n} " + "x" * noise.randrange(60) for n in range(90)])
    done = run(tmp_path / "data", write(tmp_path / "t.jsonl", rows))
    data = Dataset.open(tmp_path / "data")
    assert data.content(range(90)) == [row["text"] for row in rows]
    assert data.row_digests.tobytes() == b"".join(content_digest(row["text"]) for row in rows)
    assert data.labels.tolist() == [n % 3 for n in range(90)]
    hasher = sha256()
    for row in rows:
        hasher.update(f"4:{row['id']}".encode() + content_digest(row["text"]))
    assert done.digest == hasher.hexdigest()[:32]
