"""`aft predict`: every row of the input is in the output or in the list of those that could not be read."""

import csv
import io
import json
import tarfile
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.datasets import NewRows, text_table
from pipeline.errors import UserError
from pipeline.forks import in_turns
from pipeline.predict import Predictor
from pipeline.serving import ImageInputs, TextInputs, predict_to, predictions
from pipeline.serving.inputs import exactly
from tests.store.backends.s3 import BUCKET

from .made import made_export

TEXTS = ["word1 word2", "", "word3", "   ", "=word4", "word5 word1"]


@pytest.fixture(scope="session")
def bags(texts_of, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An export of each task."""
    root = tmp_path_factory.mktemp("bags")
    for task in ("classification", "regression", "multilabel"):
        made_export(root / task, {"family": "bag_of_words", "width": 8}, texts_of(task))
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="session")
def cnn(pictures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cnn") / "export"
    made_export(folder, {"family": "compact_cnn", "width": 8, "size": 8}, pictures)
    return folder


def table(path: Path, *texts: str, column: str = "text") -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", column])
        writer.writerows([f"k{number}", text] for number, text in enumerate(texts))
    return str(path)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def inputs(*names: str, column: str = "text", ids: str | None = None, stdin: str = "") -> TextInputs:
    return TextInputs(names, {"text_column": column, "id_column": ids}, io.StringIO(stdin))


@pytest.mark.parametrize("batch_size", [1, 2, 512])
def test_every_row_is_predicted_or_listed(bags, tmp_path: Path, batch_size: int):
    predictor = Predictor(bags["classification"], batch_size=batch_size)
    out = tmp_path / "out.csv"
    done = predict_to(predictor, inputs(table(tmp_path / "t.csv", *TEXTS)), str(out))
    assert (done.rows, done.unreadable) == (4, 2)
    lines, listed = read(out), read(tmp_path / "out.csv.unreadable.csv")
    assert [line["id"] for line in lines] == ["1", "3", "5", "6"]
    assert [(line["id"], line["problem"]) for line in listed] == [("2", "empty text"), ("4", "empty text")]
    found = predictor([TEXTS[int(line["id"]) - 1] for line in lines])
    assert [line["prediction"] for line in lines] == found.predictions
    shown = [[float(line[f"p_{name}"]) for name in found.classes] for line in lines]
    assert np.allclose(shown, found.probabilities, atol=1e-7)
    # A list of an earlier call does not stay.
    assert predict_to(predictor, inputs(table(tmp_path / "t.csv", "word1")), str(out)).unreadable == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "t.csv"]


def test_the_columns_follow_the_task(bags, tmp_path: Path):
    given = table(tmp_path / "t.csv", "word1 word2", "word3")

    def columns(task: str, name: str = "out.parquet", top: int | None = None):
        predict_to(Predictor(bags[task]), inputs(given), str(tmp_path / name), top)
        found = pq.read_table(tmp_path / name) if name.endswith(".parquet") else read(tmp_path / name)
        return (found.column_names, found.to_pylist()) if name.endswith(".parquet") else (list(found[0]), found)

    texts = ["word1 word2", "word3"]
    names, rows = columns("regression")
    assert names == ["id", "prediction"]
    assert [row["prediction"] for row in rows] == Predictor(bags["regression"])(texts).predictions
    assert [float(row["prediction"]) for row in columns("regression", "out.csv")[1]] == pytest.approx(
        [row["prediction"] for row in rows], rel=1e-7
    )
    names, rows = columns("multilabel")
    assert names == ["id", "prediction", "p_a", "p_b", "p_c"]
    expected = Predictor(bags["multilabel"])(texts)
    assert [tuple(row["prediction"]) for row in rows] == expected.predictions
    assert columns("multilabel", "out.csv")[1][0]["prediction"] == ";".join(expected.predictions[0])
    names, rows = columns("classification", top=2)
    assert names == ["id", "prediction", "class_1", "p_1", "class_2", "p_2"]
    for row, probabilities in zip(rows, Predictor(bags["classification"])(texts).probabilities, strict=True):
        order = np.argsort(-probabilities)
        assert (row["class_1"], row["class_2"]) == tuple(("bad", "good", "plain")[n] for n in order[:2])
        assert row["prediction"] == row["class_1"]
        assert row["p_1"] == pytest.approx(probabilities.max())
    assert columns("classification", top=9)[0][-1] == "p_3"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("given", ["t.csv", "t.parquet"])
def test_copies_of_the_process_change_no_byte(
    bags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, suffix: str
):
    predictor, started = Predictor(bags["classification"], batch_size=2), list[int]()
    table(tmp_path / "t.csv", "word1 word2", "  ", *(f"word{n} word3" for n in range(13)), "", "word5")
    pq.write_table(pacsv.read_csv(tmp_path / "t.csv"), tmp_path / "t.parquet")

    def forks(make: Any, count: int) -> Any:
        started.append(count)
        return in_turns(make, count)

    monkeypatch.setattr(predictions, "in_turns", forks)
    monkeypatch.setattr(predictions, "can_fork", lambda: True)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    alone = predict_to(predictor, inputs(str(tmp_path / given)), str(tmp_path / f"alone.{suffix}"))
    assert not started, "there are only a few rows"
    monkeypatch.setattr(predictions, "ALONE", 17)
    together = predict_to(predictor, inputs(str(tmp_path / given)), str(tmp_path / f"together.{suffix}"))
    assert started == [3]
    assert (together.rows, together.unreadable) == (alone.rows, alone.unreadable) == (15, 2)
    for end in (suffix, f"{suffix}.unreadable.csv"):
        assert (tmp_path / f"together.{end}").read_bytes() == (tmp_path / f"alone.{end}").read_bytes()


def test_where_copies_of_the_process_work(bags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    predictor, given = Predictor(bags["classification"]), table(tmp_path / "t.csv", "word1")
    monkeypatch.setattr(predictions, "can_fork", lambda: True)
    monkeypatch.setattr("torch.get_num_threads", lambda: 5)
    assert predictions._copies(predictor, inputs(given), 20_000) == 5
    assert predictions._copies(predictor, inputs(given), None) == 5, "a file whose rows are not counted"
    assert predictions._copies(predictor, inputs(given), 19_999) == 1
    assert predictions._copies(predictor, inputs(given, "-"), None) == 1, "lines come once, and may come slowly"
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    assert predictions._copies(predictor, inputs(given), 20_000) == 8
    monkeypatch.setattr(predictor, "in_python", False)
    assert predictions._copies(predictor, inputs(given), 20_000) == 1


def test_a_file_that_changes_while_copies_read_it_is_refused(bags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    predictor, given = Predictor(bags["classification"]), table(tmp_path / "t.csv", "word1", "word2")

    def written(make: Any, count: int) -> Any:
        items = [item for number in range(count) for item in make(number)]
        table(tmp_path / "t.csv", "word1")
        return nullcontext(iter(items))

    monkeypatch.setattr(predictions, "in_turns", written)
    monkeypatch.setattr(predictions, "_copies", lambda *_: 2)
    with pytest.raises(UserError, match=r"t\.csv: has changed while it was read; run it again"):
        predict_to(predictor, inputs(given), str(tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()


def test_texts_come_from_tables_and_lines(bags, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    predictor = Predictor(bags["classification"])
    one, other = table(tmp_path / "a.csv", "word1"), table(tmp_path / "b.csv", "word2", column="words")
    predict_to(predictor, inputs(one, "-", stdin="word1\nword2\n"), str(tmp_path / "out.csv"))
    lines = read(tmp_path / "out.csv")
    assert [line["id"] for line in lines] == [f"{one}:1", "stdin:1", "stdin:2"]
    assert lines[0]["p_bad"] == lines[1]["p_bad"] != lines[2]["p_bad"]
    predict_to(predictor, inputs(other, column="words", ids="key"), "-")
    printed = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert printed == [lines[2] | {"id": "k0"}]


@pytest.mark.parametrize("copies", [1, 2])
def test_rows_are_remarked_on_as_in_training(
    bags, texts_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: int
):
    monkeypatch.setattr(predictions, "_copies", lambda *_: copies)
    predictor = Predictor(bags["classification"], batch_size=2)
    given = {
        "blank.csv": b"text\nword1\n\nword2\nword3\n\nword4\n",
        "quotes.csv": b'text,mark\n"word1",a\nword2,b\nword3,c\n"two\nlines",d\n',
        "space.csv": b'mark,text\na, "word1"\nb,word2\n',
        "wide.csv": "text\nword1\nword2\n".encode("utf-16"),
        "plain.csv": b"text\nword1\n",
    }
    for name, content in given.items():
        (tmp_path / name).write_bytes(content)
        rows = text_table.rows(text_table.Settings(path=str(tmp_path / name)))
        expected = Counter(remark for row in rows for remark in row.remarks)
        done = predict_to(predictor, inputs(str(tmp_path / name)), str(tmp_path / "out.csv"))
        assert expected or name == "plain.csv"
        assert [note.partition(" (the first")[0] for note in done.notes] == [
            f"{times} row{'s' * (times > 1)}: {remark}" for remark, times in sorted(expected.items())
        ]
    one = predict_to(predictor, inputs(str(tmp_path / "blank.csv")), str(tmp_path / "out.csv"))
    assert str(one).splitlines()[1] == (
        "note: 2 rows: a blank line before it was skipped; in a table of one column it may be an empty text "
        "(the first is row 2)"
    )


def test_cells_that_a_spreadsheet_would_run_are_quoted(bags, tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text('key,text\n"=1+1",word1\n+x,\n')
    predict_to(Predictor(bags["classification"]), inputs(str(path), ids="key"), str(tmp_path / "out.csv"))
    assert read(tmp_path / "out.csv")[0]["id"] == "'=1+1"
    assert read(tmp_path / "out.csv.unreadable.csv")[0]["id"] == "'+x"


def pictures(folder: Path) -> Path:
    """A folder of three images, one file that is a broken image, and one that is none."""
    (folder / "deep").mkdir(parents=True)
    for name, level in (("b.png", 10), ("a.png", 200), ("deep/c.jpg", 90)):
        Image.new("RGB", (12, 9), (level, 50, 90)).save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.md").write_text("no image")
    return folder


def test_images_come_from_folders_and_files(cnn: Path, tmp_path: Path):
    folder = pictures(tmp_path / "new")
    (folder / ".hidden.png").write_bytes(b"x")
    predictor = Predictor(cnn, device="cpu", batch_size=2)
    done = predict_to(predictor, ImageInputs([str(folder)]), str(tmp_path / "out.csv"))
    assert (done.rows, done.unreadable, done.skipped) == (3, 1, 1)
    assert [line["id"] for line in read(tmp_path / "out.csv")] == ["a.png", "b.png", "deep/c.jpg"]
    listed = read(tmp_path / "out.csv.unreadable.csv")
    assert [line["id"] for line in listed] == ["broken.png"] and "not an image" in listed[0]["problem"]
    (tmp_path / "list.csv").write_text("name,photo\nx,new/a.png\ny,new/broken.png\nz,new/deep/c.jpg\n")
    table = {"image_column": "photo", "id_column": "name"}
    done = predict_to(predictor, ImageInputs([str(tmp_path / "list.csv")], table), str(tmp_path / "listed.csv"))
    assert (done.rows, done.unreadable) == (2, 1)
    found, same = ({line["id"]: line for line in read(tmp_path / name)} for name in ("listed.csv", "out.csv"))
    assert list(found) == ["x", "z"]
    for one, other in (("x", "a.png"), ("z", "deep/c.jpg")):
        assert found[one]["prediction"] == same[other]["prediction"]
        shares = [
            [float(value) for key, value in line.items() if key.startswith("p_")] for line in (found[one], same[other])
        ]
        assert shares[0] == pytest.approx(shares[1], abs=1e-5)
    one = str(folder / "a.png")
    predict_to(predictor, ImageInputs([one, str(folder / "deep")]), str(tmp_path / "two.csv"))
    assert [line["id"] for line in read(tmp_path / "two.csv")] == [one, str(folder / "deep" / "c.jpg")]


@pytest.mark.parametrize("name", ["new.csv", "new.parquet", "ne*.csv"])
def test_texts_on_object_storage_are_predicted_like_those_here(bags, tmp_path: Path, service: Any, name: str):
    here = tmp_path / name.replace("*", "w")
    table(tmp_path / "new.csv", "word1", "word2", "", "word3")
    if here.suffix == ".parquet":
        pq.write_table(pacsv.read_csv(tmp_path / "new.csv"), here)
    service.put(f"texts/{here.name}", here.read_bytes())
    predictor = Predictor(bags["classification"], device="cpu", batch_size=2)
    one = predict_to(predictor, inputs(str(here)), str(tmp_path / "here.csv"))
    other = predict_to(predictor, inputs(f"s3://{BUCKET}/texts/{name}"), str(tmp_path / "there.csv"))
    assert (one.rows, one.unreadable) == (other.rows, other.unreadable) == (3, 1)
    assert read(tmp_path / "here.csv") == read(tmp_path / "there.csv")


def test_images_come_from_object_storage_and_tar_files(cnn: Path, tmp_path: Path, service: Any):
    folder = pictures(tmp_path / "new")
    with tarfile.open(tmp_path / "new.tar", "w") as archive:
        for name in ("a.png", "b.png", "broken.png", "deep/c.jpg"):
            archive.add(folder / name, name)
    service.put("new.tar", (tmp_path / "new.tar").read_bytes())
    for path in folder.rglob("*.*"):
        service.put(f"new/{path.relative_to(folder)}", path.read_bytes())
    predictor = Predictor(cnn, device="cpu", batch_size=2)

    def predicted(*names: str) -> tuple[tuple[int, int, int], list[dict[str, str]]]:
        done = predict_to(predictor, ImageInputs(names), str(tmp_path / "out.csv"))
        return (done.rows, done.unreadable, done.skipped), read(tmp_path / "out.csv")

    counts, lines = predicted(str(folder))
    assert predicted(f"s3://{BUCKET}/new") == (counts, lines) and counts == (3, 1, 1)
    for tar in (str(tmp_path / "new.tar"), f"s3://{BUCKET}/new.tar", f"s3://{BUCKET}/n*.tar"):
        found = predicted(tar)
        assert found[0] == (3, 1, 0)
        assert [line["id"] for line in found[1]] == ["a", "b", "deep/c"]
        assert [line["prediction"] for line in found[1]] == [line["prediction"] for line in lines]
    one, deep = f"s3://{BUCKET}/new/a.png", f"s3://{BUCKET}/new/deep"
    assert [line["id"] for line in predicted(one, deep)[1]] == [one, f"{deep}/c.jpg"]


def test_what_is_not_on_object_storage_gets_one_line(tmp_path: Path, service: Any):
    for name, line in (
        (f"s3://{BUCKET}/no.csv", "no.csv: no such file"),
        (f"s3://{BUCKET}/no-*.csv", r"no-\*.csv: no object matches this pattern; check the URL"),
        ("s3://nowhere/new.csv", "there is no bucket nowhere; create it, or correct the URL"),
        ("http://host/new.csv", "a URL, and a path is needed there, or a URL with s3://, gs:// or az://; download it"),
        ("s3:/bucket/new.csv", "a URL, and a path of this machine is needed there"),
    ):
        for take in (inputs, lambda name: ImageInputs([name])):
            with pytest.raises(UserError, match=line) as found:
                take(name)
            assert "\n" not in str(found.value)


ODD = [["k0", "word1"], ["k1", None], [None, "word2"], ["k3", "wörd3 \u2028"], ["k4", " "], ["k5", "word5"]]


@pytest.mark.parametrize("size", [1, 2, 4, 512])
@pytest.mark.parametrize("template", [None, "{text}"])
@pytest.mark.parametrize("form", ["csv", "parquet", "arrow", "jsonl"])
def test_tables_read_by_column_have_the_rows_of_those_read_row_by_row(
    tmp_path: Path, form: str, template: str | None, size: int
):
    """A template makes the same texts, one row at a time."""
    path = tmp_path / f"t.{form}"
    rows = pa.table({"key": [row[0] for row in ODD], "text": [row[1] for row in ODD]})
    match form:
        case "csv":
            path.write_text("key,text\n" + "".join(f"{key or ''},{text or ''}\n" for key, text in ODD))
        case "parquet":
            pq.write_table(rows, path)
        case "arrow":
            feather.write_feather(rows, path)
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
    names = [str(path), str(path)]
    given = TextInputs(names, {"text_column": "text", "id_column": "key", "template": template}, [])
    blocks = list(exactly(size, given.blocks(size)))
    assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    expected = [(f"{path}:{key or number}", text or "") for number, (key, text) in enumerate(ODD, start=1)]
    assert [pair for block in blocks for pair in zip(block.ids, block.contents, strict=True)] == 2 * expected
    assert not any(problem for block in blocks for problem in block.problems)


def test_a_cell_that_cannot_be_decoded_is_one_row(bags, tmp_path: Path):
    (tmp_path / "t.csv").write_bytes(b"text\nword1\nw\xf6rd2\nword3\n")
    done = predict_to(Predictor(bags["classification"]), inputs(str(tmp_path / "t.csv")), str(tmp_path / "out.csv"))
    assert (done.rows, done.unreadable) == (2, 1)
    assert [line["id"] for line in read(tmp_path / "out.csv")] == ["1", "3"]
    (listed,) = read(tmp_path / "out.csv.unreadable.csv")
    assert listed["id"] == "2" and "byte 0xf6 at character 2 is not utf-8" in listed["problem"]


def test_rows_of_parquet_are_in_few_groups(bags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = table(tmp_path / "t.csv", *(f"word{number}" for number in range(60)))
    predictor, out = Predictor(bags["classification"], batch_size=7), tmp_path / "out.parquet"
    predict_to(predictor, inputs(given), str(out))
    assert pq.read_metadata(out).num_row_groups == 1
    expected = pq.read_table(out)
    monkeypatch.setattr(predictions, "GROUP", 1000)
    predict_to(predictor, inputs(given), str(out))
    assert pq.read_metadata(out).num_row_groups > 1 and pq.read_table(out).equals(expected)


def test_rows_are_read_as_they_are_needed(bags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Memory holds some batches, whatever the number of rows."""
    predictor = Predictor(bags["classification"], batch_size=4)
    read = predicted = 0
    ahead = []

    class Endless(TextInputs):
        def count(self) -> None:
            return None

        def blocks(self, size: int):
            nonlocal read
            for start in range(0, 400, size):
                read += size
                yield NewRows(list(map(str, range(start, start + size))), ["word1"] * size, [""] * size, [()] * size)

    outputs = predictor.outputs

    def counted(batch):
        nonlocal predicted
        ahead.append(read - predicted)
        predicted += 4
        return outputs(batch)

    monkeypatch.setattr(predictor, "outputs", counted)
    assert predict_to(predictor, Endless([], {}, []), str(tmp_path / "out.csv")).rows == 400
    assert max(ahead) <= 12


def test_what_cannot_be_predicted_is_one_line_and_leaves_nothing(
    bags, cnn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given, text, image = table(tmp_path / "t.csv", "word1"), Predictor(bags["classification"]), Predictor(cnn)
    regression = Predictor(bags["regression"])
    (tmp_path / "notes.md").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("text\n\n" + '" "\n')
    before = sorted(path.name for path in tmp_path.iterdir())
    out, notes = str(tmp_path / "out.csv"), str(tmp_path / "notes.md")
    for predictor, make, output, top, message in (
        (text, lambda: inputs(given, column="words"), out, None, "no column 'words'; there are 'key', 'text'"),
        (text, lambda: inputs(str(tmp_path / "no.csv")), out, None, "no.csv: no such file"),
        (text, lambda: inputs(notes), out, None, "notes.md: not a table; its name must end in .csv"),
        (text, lambda: inputs(str(tmp_path / "empty")), out, None, "empty: is a folder, and this student reads texts"),
        (
            text,
            lambda: inputs(str(tmp_path / "bad.csv")),
            out,
            None,
            "no row could be read; the first is 1: empty text",
        ),
        (text, lambda: inputs("-"), out, None, "there are no rows to predict"),
        (text, lambda: inputs(given), str(tmp_path / "no" / "o.csv"), None, "no folder .*/no; make it first"),
        (text, lambda: inputs(given), str(tmp_path / "o.xlsx"), None, "ends in .csv or .parquet"),
        (text, lambda: inputs(given), given, None, "is one of the inputs; choose another name"),
        (regression, lambda: inputs(given), out, 3, "--top: a regression has no classes"),
        (
            image,
            lambda: ImageInputs([notes]),
            out,
            None,
            r"no row could be read; the first is .*notes.md: not an image",
        ),
        (image, lambda: ImageInputs([str(tmp_path / "empty")]), out, None, "empty: no images there"),
        (image, lambda: ImageInputs(["-"]), out, None, "-: this student reads images"),
        (image, lambda: ImageInputs([str(tmp_path / "no")]), out, None, "no: no such file or folder"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            predict_to(predictor, make(), output, top)
        assert "\n" not in str(caught.value)
        left = {path.name for path in tmp_path.iterdir()} - set(before)
        assert left <= {"out.csv.unreadable.csv"}, message
        if output == out and top is None:
            with pytest.raises(UserError, match=message):
                predict_to(predictor, make(), "-")
            assert capsys.readouterr().out == "", message
