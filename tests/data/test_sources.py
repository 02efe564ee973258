"""Further sources of rows without labels: they train by transfer, and never touch validation or test."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.checks import check_params
from pipeline.code import digests
from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.params import Params, parse

ROOT = Path(__file__).parents[2]


def table(path: Path, texts: list[str], split: list[str] | None = None, labels: str = "ab") -> dict[str, Any]:
    rows = [{"text": text, "mood": labels[n % len(labels)]} for n, text in enumerate(texts)]
    for row, name in zip(rows, split or [], strict=False):
        row["part"] = name
    path.write_text("\n".join(map(json.dumps, rows)))
    return {"family": "text_table", "path": str(path), "label_column": "mood"} | (
        {"split_column": "part"} if split else {}
    )


def prepared(folder: Path, **settings: Any) -> Dataset:
    prepare(parse(PrepareSettings, settings, "dataset"), folder)
    return Dataset.open(folder)


OWN, MORE = [f"own text {n}" for n in range(40)], [f"other text {n}" for n in range(25)]


def test_further_rows_train_without_a_label(tmp_path: Path):
    source, more = table(tmp_path / "a.jsonl", OWN), table(tmp_path / "b.jsonl", MORE)
    alone = prepared(tmp_path / "alone", source=source, splits=3)
    data = prepared(tmp_path / "data", source=source, unlabelled=[more], splits=3)
    assert len(data) == 65 and (data.labels[40:] == -1).all()
    assert all(id.startswith("unlabelled:") for id in data.ids[40:])
    for number in range(3):
        with_more, without = data.split(number), alone.split(number)
        assert set(range(40, 65)) <= set(with_more.unlabelled)
        # The rows with labels keep their roles, whatever is added.
        assert (with_more.val == without.val).all() and (with_more.test == without.test).all()


@pytest.mark.parametrize("deduplicate", ["none", "exact", "token_set"])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_row_of_the_source_never_enters_again(tmp_path: Path, deduplicate: str, fixed: bool):
    split = ["train", "val", "test", "train"] * 10 if fixed else None
    source = table(tmp_path / "a.jsonl", OWN, split)
    more = table(tmp_path / "b.jsonl", [*MORE, *OWN], split=["test"] * 65)
    data = prepared(tmp_path / "data", source=source, unlabelled=more, deduplicate=deduplicate)
    assert [*data.content(range(len(data)))] == [*OWN, *MORE]
    assert data.manifest.dropped["duplicate"] == 40
    with (tmp_path / "data" / "quarantine.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == 40 and all(row["id"].startswith("unlabelled:") for row in listed)
    assert {row["detail"].removeprefix("see ") for row in listed} == set(data.ids[:40])
    seen = len(data) + sum(data.manifest.dropped.values())
    assert seen == 40 + 65
    assert any("of dataset.unlabelled: 65 rows seen, 25 used" in note for note in data.manifest.notes)


def test_several_further_sources_may_hold_the_same_names(tmp_path: Path):
    source = table(tmp_path / "a.jsonl", OWN)
    more = [table(tmp_path / f"{name}.jsonl", MORE[n:]) for n, name in enumerate("bc")]
    data = prepared(tmp_path / "data", source=source, unlabelled=more)
    assert len(data) == 40 + 25 and data.manifest.dropped["duplicate"] == 24


def test_images_of_a_folder_without_classes(tmp_path: Path):
    for name in [f"photos/{'cd'[n % 2]}/{n}.png" for n in range(20)] + [f"more/{n}.png" for n in range(20, 30)]:
        pixels = np.random.default_rng(int(Path(name).stem)).integers(0, 255, (5, 5, 3), dtype=np.uint8)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        (tmp_path / name).write_bytes(file.getvalue())
    flat = {"family": "image_folder", "path": str(tmp_path / "more"), "labels": False}
    data = prepared(
        tmp_path / "data", source={"family": "image_folder", "path": str(tmp_path / "photos")}, unlabelled=flat
    )
    assert len(data) == 30 and data.task.outputs == ("c", "d")
    assert data.ids[20:].tolist() == [f"unlabelled:{n}.png" for n in range(20, 30)]
    with pytest.raises(UserError, match="takes neither `unlabelled` nor `splits`"):
        prepared(tmp_path / "bad", source=flat | {"splits": {}})


def test_a_line_that_names_a_further_row_says_so(tmp_path: Path):
    source, more = table(tmp_path / "a.jsonl", OWN), table(tmp_path / "b.jsonl", [*MORE, " "])
    with pytest.raises(UserError, match=r"row unlabelled:\w+ \(line 26 of unlabelled\): empty text"):
        prepared(tmp_path / "data", source=source, unlabelled=more)


def test_further_rows_are_of_the_same_kind():
    params = Params(yaml.safe_load((ROOT / "params.yaml").read_text()))
    params.values["dataset"]["unlabelled"] = {"family": "digits"}
    with pytest.raises(UserError, match=r"dataset.unlabelled: digits holds image rows, and the source text"):
        check_params(params)


def test_code_of_a_further_source_is_code_of_prepare():
    params = Params(yaml.safe_load((ROOT / "params.yaml").read_text()))
    before = digests(params)["prepare"]
    params.values["dataset"]["unlabelled"] = [{"family": "text_table", "path": "more.csv"}]
    assert digests(params)["prepare"] != before
