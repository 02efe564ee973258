"""Tables of text, in every format, good and bad."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets import Row, text_table
from pipeline.errors import UserError

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
def test_every_format_says_the_same(tmp_path: Path, suffix: str):
    assert read(write(tmp_path / f"table{suffix}", RECORDS), **COLUMNS) == ROWS


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_numbers_and_missing_values_become_names_and_nothing(tmp_path: Path, suffix: str):
    records = [{"id": 5, "text": "a", "mood": 1}, {"id": 6, "text": "b", "mood": None}]
    rows = read(write(tmp_path / f"table{suffix}", records), label_column="mood", id_column="id")
    assert rows == [Row("5", "a", "1"), Row("6", "b", None)]


def test_a_csv_in_another_encoding_is_read_when_told(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_bytes("text\ncafé\n".encode("latin-1"))
    assert [row.content for row in read(path, encoding="latin-1")] == ["café"]
    with pytest.raises(UserError, match=r"table\.csv: cannot be read: .*UTF8"):
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


def test_a_row_without_an_id_is_refused_by_number(tmp_path: Path):
    path = write(tmp_path / "t.csv", [{"id": "1", "text": "a"}, {"id": "", "text": "b"}])
    with pytest.raises(UserError, match="row 2 has nothing in column 'id'"):
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


def test_a_csv_larger_than_one_block_is_read_whole(tmp_path: Path):
    texts = [f"{number} " + 'a "quoted"\nword, ' * 2000 for number in range(900)]
    rows = read(write(tmp_path / "large.csv", [{"text": text} for text in texts]))
    assert [row.content for row in rows] == texts
