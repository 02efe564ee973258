"""Tables of text, in every format, good and bad."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets import Row, text_table
from pipeline.errors import UserError
from pipeline.tasks import Label

RECORDS = [
    {"id": "007", "text": 'He said "no",\nthen left', "mood": "bad", "part": "train", "who": "1"},
    {"id": "7", "text": "naïve café 東京 🎈", "mood": "", "part": "test", "who": ""},
    {"id": "N/A", "text": "null", "mood": "NA", "part": "dev", "who": "2"},
]
COLUMNS = {"label_column": "mood", "id_column": "id", "split_column": "part", "group_column": "who"}
ROWS = [
    Row("007", 'He said "no",\nthen left', "bad", "train", "1"),
    Row("7", "naïve café 東京 🎈", None, "test", None),
    Row("N/A", "null", "NA", "dev", "2"),
]


def write(path: Path, records: list[dict]) -> Path:
    match path.suffix:
        case ".csv" | ".tsv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, records[0], delimiter="," if path.suffix == ".csv" else "\t")
                writer.writeheader()
                writer.writerows(records)
        case ".jsonl":
            path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(records), path)
    return path


def read(path: Path, **settings: str) -> list[Row]:
    return list(text_table.rows(text_table.Settings(path=str(path), **settings)))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str):
    lines = {".csv": [2, 4, 5], ".tsv": [2, 4, 5], ".jsonl": [1, 2, 3], ".parquet": [None, None, None]}[suffix]
    expected = [replace(row, line=line) for row, line in zip(ROWS, lines, strict=True)]
    assert read(write(tmp_path / f"table{suffix}", RECORDS), **COLUMNS) == expected


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_numbers_and_missing_values_become_names_and_nothing(tmp_path: Path, suffix: str):
    records = [{"id": 5, "text": "a", "mood": 1}, {"id": 6, "text": "b", "mood": None}]
    rows = read(write(tmp_path / f"table{suffix}", records), label_column="mood", id_column="id")
    assert [(row.id, row.content, row.label) for row in rows] == [("5", "a", "1"), ("6", "b", None)]


def test_a_csv_in_another_encoding_is_read_when_told(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_bytes("text\ncafé\n".encode("latin-1"))
    assert [row.content for row in read(path, encoding="latin-1")] == ["café"]
    with pytest.raises(UserError, match=r"table\.csv: line 2 is not utf-8 \(.*; save it as utf-8"):
        read(path)


def test_ids_made_from_text_survive_sorting_and_deleting_rows(tmp_path: Path):
    texts = ["one", "two", "one", "three", "one"]
    before = read(write(tmp_path / "a.jsonl", [{"text": text} for text in texts]))
    after = read(write(tmp_path / "b.jsonl", [{"text": text} for text in ["three", "one", "one"]]))
    ids = [row.id for row in before]
    assert len(set(ids)) == 5
    assert [row.id for row in after] == [ids[3], ids[0], ids[2]]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["text_column", "label_column", "id_column", "split_column", "group_column"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, suffix: str, column: str):
    path = write(tmp_path / f"table{suffix}", RECORDS)
    with pytest.raises(UserError, match=r"no column 'tweet'; there are 'id', 'text', 'mood', 'part', 'who'"):
        read(path, **{column: "tweet"})


@pytest.mark.parametrize(
    ("suffix", "place"), [(".csv", "line 5"), (".tsv", "line 5"), (".jsonl", "line 2"), (".parquet", "row 2")]
)
def test_a_row_without_an_id_is_refused_by_its_line(tmp_path: Path, suffix: str, place: str):
    path = write(tmp_path / f"t{suffix}", [{"id": "1", "text": "a\nb\nc"}, {"id": "", "text": "b"}])
    with pytest.raises(UserError, match=rf"t\{suffix}: {place} has nothing in column 'id'"):
        read(path, id_column="id")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_missing_file_is_named(tmp_path: Path, suffix: str):
    with pytest.raises(UserError, match=r"table\.\w+: no such file; check dataset\.source\.path"):
        read(tmp_path / f"table{suffix}")


def test_another_kind_of_file_is_refused_with_the_kinds_there_are(tmp_path: Path):
    with pytest.raises(UserError, match=r"must end in \.csv, \.tsv, \.parquet, \.jsonl"):
        read(tmp_path / "table.xlsx")


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        ("t.parquet", b"PAR1 and then nothing that a table would have"),
        ("t.csv", b""),
        ("t.csv", b"text,mood\nfine,good\nbroken\n"),
        ("t.jsonl", b'{"text": "fine"}\n{"text": "bro'),
        ("t.jsonl", b'{"text": "fine"}\n["not", "an", "object"]\n'),
        ("t.jsonl", b'{"text": "fine"}\n\xff\xfe\n'),
    ],
)
def test_a_damaged_table_is_one_line_with_its_path(tmp_path: Path, name: str, damaged: bytes):
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(UserError, match=name) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_line_that_is_not_json_is_named_by_number(tmp_path: Path):
    (tmp_path / "t.jsonl").write_text('{"text": "fine"}\n\n{"text": "bro')
    with pytest.raises(UserError, match="line 3 is not valid JSON"):
        read(tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.tsv",
            'text\tmood\nfine\ta\n"Brilliant\ta\nthe plot\tb\nthe "film" ever"\tb\n',
            "line 3: .*write a quote twice",
        ),
        ("t.csv", 'text,mood\n\n"He said \\"great\\" twice",a\n', "line 3: .*write a quote twice"),
        ("t.csv", 'text,mood\n"a\nb",a\nbroken\n', "line 4 has 1 cell, and the header has 2"),
        ("t.csv", "text,mood,text\na,b,c\n", "2 columns are called 'text'; rename all but one"),
        ("t.csv", "", "empty; its first line must be the names of the columns"),
        ("t.jsonl", '{"text": "x", "more": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1 is not valid JSON"),
        ("t.jsonl", '\n{"text": "x", "n": ' + "9" * 5000 + "}", "line 2 is not valid JSON"),
        ("t.jsonl", '\n{"txt": "fine"}\n', "no column 'text'; there are 'txt'"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line_with_the_line(tmp_path: Path, name: str, content: str, message: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name}: {message}") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_unknown_encoding_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"no encoding is called 'utf-9'"):
        read(write(tmp_path / "t.csv", RECORDS), encoding="utf-9")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path):
    for name, content in (("t.csv", "text\na\n"), ("t.jsonl", '{"text": "a"}\n')):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert [row.content for row in read(tmp_path / name)] == ["a"]


def test_a_json_record_may_leave_out_a_column_that_others_have(tmp_path: Path):
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n{"text": "b", "mood": "good"}\n')
    assert [row.label for row in read(tmp_path / "t.jsonl", label_column="mood")] == [None, "good"]
    with pytest.raises(UserError, match="no column 'moood'; there are 'text', 'mood'"):
        read(tmp_path / "t.jsonl", label_column="moood")


def test_cells_of_parquet_are_texts_or_numbers(tmp_path: Path):
    def column(text: pa.Array, label: pa.Array) -> list[tuple[str, str | None]]:
        pq.write_table(pa.table({"text": text, "label": label}), tmp_path / "t.parquet")
        return [(row.content, row.label) for row in read(tmp_path / "t.parquet", label_column="label")]

    text, label = pa.array(["a", "b"]), pa.array([1, 0])
    assert column(pa.array([b"a", "é".encode()]), label) == [("a", "1"), ("é", "0")]
    assert column(text, pa.array([float("nan"), 2.0], from_pandas=False)) == [("a", None), ("b", "2.0")]
    with pytest.raises(UserError, match=r"t\.parquet: row 1: column 'text' holds a list; a cell must be"):
        column(pa.array([["a", "x"], ["b"]]), label)
    assert column(text, pa.array([[1, 4], []])) == [("a", ("1", "4")), ("b", ())]
    with pytest.raises(UserError, match=r"row 2: column 'label' has an empty label in \['a', None\]"):
        column(text, pa.array([["a"], ["a", None]]))
    with pytest.raises(UserError, match=r"row 2: column 'text' holds bytes that are not text in UTF-8"):
        column(pa.array([b"a", b"\xff"]), label)


def test_a_parquet_table_with_a_column_twice_is_refused(tmp_path: Path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UserError, match="2 columns are called 'text'"):
        read(tmp_path / "t.parquet")


def test_a_cell_may_be_longer_than_pythons_own_limit(tmp_path: Path):
    text = "word " * 100_000
    assert [row.content for row in read(write(tmp_path / "t.csv", [{"text": text}]))] == [text]


def test_a_csv_larger_than_one_block_is_read_whole(tmp_path: Path):
    texts = [f"{number} " + 'a "quoted"\nword, ' * 2000 for number in range(900)]
    rows = read(write(tmp_path / "large.csv", [{"text": text} for text in texts]))
    assert [row.content for row in rows] == texts


def test_a_cell_with_a_separator_has_several_labels(tmp_path: Path):
    def labels(*cells: str) -> list[Label | None]:
        path = write(tmp_path / "t.csv", [{"text": "a", "label": cell} for cell in cells])
        return [row.label for row in read(path, label_column="label", label_separator=";")]

    assert labels("sun; sea", "sun", "", " wind ;sun;sea") == [("sun", "sea"), ("sun",), None, ("wind", "sun", "sea")]
    for cell in (";", "sun;", "sun;;sea"):
        with pytest.raises(UserError, match=r"line 3: column 'label' has an empty label in '.*;"):
            labels("sun", cell)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_columns_of_0_and_1_are_a_label_each(tmp_path: Path, suffix: str):
    def labels(*marks: tuple) -> list[Label | None]:
        path = write(tmp_path / f"t{suffix}", [{"text": "a", "sun": sun, "sea": sea} for sun, sea in marks])
        return [row.label for row in read(path, label_column=["sun", "sea"])]

    assert labels((1, 0), (1, 1), (0, 0), (None, None)) == [("sun",), ("sun", "sea"), (), None]
    assert labels((True, False), (False, True)) == [("sun",), ("sea",)]
    for wrong in (2, None, 0.5):
        with pytest.raises(UserError, match=r"(line|row) \d: column 'sea' has '.*'; label columns hold 0 or 1"):
            labels((1.0, 0.0), (1.0, wrong))
    with pytest.raises(UserError, match=r"column 'sea' of dataset.source.label_column has no 1 in any row"):
        labels((1, 0), (0, 0))


def test_label_columns_are_two_or_more_and_have_no_separator(tmp_path: Path):
    path = write(tmp_path / "t.csv", [{"text": "a", "sun": 1}])
    for settings in ({"label_column": ["sun"]}, {"label_column": ["sun", "text"], "label_separator": ";"}):
        with pytest.raises(UserError, match="a list is of two columns or more"):
            read(path, **settings)
