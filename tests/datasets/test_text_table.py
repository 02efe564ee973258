"""Tables of text, in every format, good and bad."""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets import Row, _csv, text_table
from pipeline.datasets._csv import BLANK, SPACED, SPANS, TAKEN_OFF
from pipeline.datasets._rows import Wanted
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


def read(path: Path, **keys: str) -> list[Row]:
    return list(text_table.rows(text_table.Settings(path=str(path), **keys)))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str):
    lines = {".csv": [2, 4, 5], ".tsv": [2, 4, 5], ".jsonl": [1, 2, 3], ".parquet": [None, None, None]}[suffix]
    expected = [replace(row, line=line) for row, line in zip(ROWS, lines, strict=True)]
    if suffix in (".csv", ".tsv"):
        expected[0] = replace(expected[0], remarks=(SPANS,))
    assert read(write(tmp_path / f"table{suffix}", RECORDS), **COLUMNS) == expected


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_numbers_and_missing_values_become_names_and_nothing(tmp_path: Path, suffix: str):
    records = [{"id": 5, "text": "a", "mood": 1}, {"id": 6, "text": "b", "mood": None}]
    rows = read(write(tmp_path / f"table{suffix}", records), label_column="mood", id_column="id")
    assert [(row.id, row.content, row.label) for row in rows] == [("5", "a", "1"), ("6", "b", None)]


def test_a_csv_in_another_encoding_is_read_if_encoding_is_set(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_bytes("text\ncafé\n".encode("latin-1"))
    assert [row.content for row in read(path, encoding="latin-1")] == ["café"]
    (row,) = read(path)
    assert row.problem
    assert "byte 0xe9 at character 4 is not utf-8; it looks like cp1252 ('café')" in row.problem


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
    with pytest.raises(UserError, match=r"must end in \.csv, \.tsv, \.json, .* may be compressed \(\.gz"):
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
        ("t.csv", 'text,mood\n"a\nb",a\nbroken\n', "line 4 has 1 cell, but the header has 2"),
        ("t.csv", "text,mood,text\na,b,c\n", "2 columns are called 'text'; rename all but one"),
        ("t.csv", "", "empty; its first line must be the names of the columns"),
        (
            "t.jsonl",
            '{"text": "x", "more": ' + "[" * 100_000 + "]" * 100_000 + "}",
            "line 1 has lists or objects nested",
        ),
        ("t.jsonl", '\n{"text": "x", "n": ' + "9" * 5000 + "}", "line 2 has a number of thousands of digits"),
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


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path):
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
    with pytest.raises(UserError, match=r"row 2: column 'label': byte 0xff at character 1 is not utf-8"):
        column(text, pa.array([b"a", b"\xff"]))


def test_a_parquet_table_with_a_column_twice_is_refused(tmp_path: Path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UserError, match="2 columns are called 'text'"):
        read(tmp_path / "t.parquet")


def test_a_cell_may_be_longer_than_pythons_own_limit(tmp_path: Path):
    text = "word " * 100_000
    assert [row.content for row in read(write(tmp_path / "t.csv", [{"text": text}]))] == [text]


def test_a_csv_larger_than_one_block_is_read_whole(tmp_path: Path):
    texts = [f"{number} " + 'a "quoted"\nword, ' * 2000 for number in range(60)]
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
    for keys in ({"label_column": ["sun"]}, {"label_column": ["sun", "text"], "label_separator": ";"}):
        with pytest.raises(UserError, match="a list must name two or more columns"):
            read(path, **keys)


# Quotes


LONE = '"Brilliant is all I can say\ta\nthe plot is thin\tb\nI left early\tb\nthe worst film ever"\tb\n'
"""Four rows whose quotes belong to the texts: the first lone quote is closed by the second one."""
PLAIN = "".join(f"text {n}\t{'ab'[n % 2]}\n" for n in range(6))


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def commas(text: str) -> str:
    return text.replace("\t", ",")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.tsv", f"text\tlabel\n{PLAIN}{LONE}"),
        ("t.tsv", f"text\tlabel\n{LONE}{PLAIN}"),
        ("t.csv", commas(f"text\tlabel\n{PLAIN}{LONE}")),
        # A row that no reading of quotes makes right, inside of what looks like one cell.
        ("t.tsv", f"text\tlabel\n{PLAIN}{LONE}".replace("left early\t", "left\tearly\t")),
        # Quotes that must stand around a cell, before and after.
        ("t.csv", commas(f"text\tlabel\n{PLAIN}{LONE}") + '"well, no",a\n"well, yes",b\n'),
        ("t.tsv", 'label\ttext\na\tfine\nb\tbad\na\t"lone\nb\tmiddle\na\t"\n'),
        ("t.tsv", 'score\ttext\n1.5\tfine\n2\tbad\n3.25\t"lone\n7\tend"\n'),
    ],
)
def test_a_lone_quote_that_a_later_one_closes_swallows_no_rows(tmp_path: Path, name: str, content: str):
    label = "score" if content.startswith("score") else "label"
    path = written(tmp_path / name, content)
    with pytest.raises(
        UserError, match=r"line \d+: a cell in quotes spans \d lines, the first of which reads as a row"
    ):
        read(path, label_column=label)
    if "left\t" not in content and ",a\n" not in content:
        texts = [row.content for row in read(path, label_column=label, quotes="none")]
        assert len(texts) == content.count("\n") - 1
        assert sum(text.count('"') for text in texts) == 2


@pytest.mark.parametrize("labels", [{}, {"label_column": "label"}])
def test_without_labels_a_cell_spans_lines_only_if_other_rows_need_their_quotes(tmp_path: Path, labels: dict):
    content = commas('text\tlabel\nfine\ta\nbad\tb\n"Dear all\t I\nwas there"\ta\n')
    path = written(tmp_path / "t.csv", content)
    if labels:
        assert read(path, **labels)[2].content == "Dear all, I\nwas there".replace(", ", ", ")
    else:
        with pytest.raises(UserError, match="line 4: a cell in quotes spans 2 lines"):
            read(path)
        assert len(read(path, quotes="doubled")) == 3
    written(path, content + '"well, well, well",b\n"no, no",a\n')
    assert [row.remarks for row in read(path, **labels)] == [(), (), (SPANS,), (), ()]


def test_cells_that_span_lines_in_a_file_with_quotes_inside_of_bare_cells_are_refused(tmp_path: Path):
    for rows in (['"one\ntwo",a', 'the "film",b'], ['the "film",b', '"one\ntwo",a']):
        path = written(tmp_path / "t.csv", "\n".join(["text,label", *rows, ""]))
        with pytest.raises(UserError, match=r"line \d: a cell in quotes spans lines, and line \d has a quote inside"):
            read(path, label_column="label")
    path = written(tmp_path / "t.csv", 'text,label\nthe "film",b\n5" nails,a\n')
    assert [row.content for row in read(path)] == ['the "film"', '5" nails']


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.text('ab ,"\n\\', min_size=1), st.sampled_from("xyz")), min_size=1), st.sampled_from([0, 1])
)
def test_what_a_csv_writer_writes_is_read_back_or_refused(tmp_path_factory, rows: list[tuple[str, str]], quoting: int):
    path = tmp_path_factory.getbasetemp() / "hypothesis.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=quoting).writerows([("text", "label"), *rows])
    for quotes in ({}, {"quotes": "doubled"}):
        try:
            found = [(row.content, row.label) for row in read(path, label_column="label", **quotes)]
        except UserError:
            assert not quotes
        else:
            assert found == rows


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text('ab "\\', min_size=1), st.sampled_from("xyz")), min_size=1))
def test_rows_whose_quotes_belong_to_the_texts_are_never_swallowed(tmp_path_factory, rows: list[tuple[str, str]]):
    path = tmp_path_factory.getbasetemp() / "hypothesis.tsv"
    # A line reads as a row only if its label is known from other rows.
    rows = [("plain", label) for label in "xyz"] + rows
    path.write_text("".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows]))
    try:
        found = read(path, label_column="label")
    except UserError:
        pass
    else:
        assert [row.label for row in found] == [label for _, label in rows]
    assert [row.content for row in read(path, quotes="none")] == [text for text, _ in rows]


def test_quotes_with_a_backslash_are_read_if_quotes_is_set(tmp_path: Path):
    path = written(tmp_path / "t.csv", 'text,label\n"He said \\"great\\", twice",a\n"end \\"",b\n"a\nb",a\n')
    texts = [row.content for row in read(path, label_column="label", quotes="backslash")]
    assert texts == ['He said "great", twice', 'end "', "a\nb"]
    with pytest.raises(UserError, match=r"line 2: .*`backslash` if \\\" stands for one"):
        read(path, label_column="label")
    written(path, 'text,label\n"end \\"",b",a\n')
    with pytest.raises(UserError, match=r'line 2: a cell in quotes holds \\"", which may be the end of it'):
        read(path, label_column="label")


@pytest.mark.parametrize("quotes", [None, "doubled"])
def test_blank_lines_are_remarked_where_they_may_be_empty_texts(tmp_path: Path, quotes: str | None):
    path = written(tmp_path / "t.csv", "text\n\na\nb\n\n\nc\n\n")
    found = [(row.content, row.remarks) for row in read(path, quotes=quotes)]
    assert found == [("a", (BLANK,)), ("b", ()), ("c", (BLANK,))]
    path = written(tmp_path / "t.csv", "text,label\n\na,x\n")
    assert [row.remarks for row in read(path, quotes=quotes)] == [()]


def test_quotes_behind_a_space_are_remarked(tmp_path: Path):
    path = written(tmp_path / "t.csv", 'label,text\na, fine\na, "I love it"\nb, so "so"\n')
    assert [(row.content, row.remarks) for row in read(path)] == [
        (" fine", ()),
        (' "I love it"', (SPACED,)),
        (' so "so"', ()),
    ]


def test_quotes_that_are_taken_off_without_need_are_remarked(tmp_path: Path):
    path = written(tmp_path / "t.csv", 'text,label\nfine,a\n"I love it",a\n"so, so",b\n')
    assert [(row.content, row.remarks) for row in read(path)] == [
        ("fine", ()),
        ("I love it", (TAKEN_OFF,)),
        ("so, so", ()),
    ]
    written(path, '"text","label"\n"fine",1\n"I love it",2\n')
    assert [row.remarks for row in read(path)] == [(), ()]


def test_a_delimiter_is_taken_as_given(tmp_path: Path):
    path = written(tmp_path / "t.csv", 'text;label\n"a; b";x\nc, d;y\n')
    assert [row.content for row in read(path, delimiter=";", label_column="label")] == ["a; b", "c, d"]


# Encodings


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, suffix: str, encoding: str):
    path = write(tmp_path / f"t{suffix}", [{"text": "naïve 東京 🎈"}, {"text": "b"}])
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    remarks = () if encoding == "utf-8-sig" else (f"read as {encoding}, by its byte order mark",)
    assert [(row.content, row.remarks) for row in read(path)] == [("naïve 東京 🎈", remarks), ("b", remarks)]


@pytest.mark.parametrize(("encoding", "byte"), [("utf-16-le", 2), ("utf-16-be", 1)])
def test_utf_16_without_a_mark_is_refused_with_its_name(tmp_path: Path, encoding: str, byte: int):
    path = written(tmp_path / "t.csv", "text\na\n".encode(encoding))
    with pytest.raises(UserError, match=rf"t\.csv: byte {byte} is zero, .*; set `encoding: {encoding}`"):
        read(path)
    assert [row.content for row in read(path, encoding=encoding)] == ["a"]
    with pytest.raises(UserError, match=r"t\.csv: not utf-16-le"):
        read(written(path, "text\na\n".encode("utf-16-le") + b"x"), encoding="utf-16-le")


TEXTS = {
    "cp1252": ("Le café était très bon, c'est l'été déjà, “naïve” œuvre €5", "très"),
    "iso8859_2": ("Zażółć gęślą jaźń, miło było spotkać się w Łodzi", "gęślą"),
    "cp1251": ("Очень хороший фильм, мне понравилось; плохая игра актёров", "Очень"),
    "koi8_r": ("Очень хороший фильм, мне понравилось; плохая игра актёров", "Очень"),
    "cp1253": ("Πολύ καλή ταινία, μου άρεσε πάρα πολύ", "Πολύ"),
    "cp1254": ("Çok güzel bir film, oyuncular harika değildi, İstanbul", "değildi"),
    "cp1255": ("סרט טוב מאוד אהבתי", "סרט"),
    "cp1256": ("فيلم جيد جدا أحببته", "فيلم"),
    "mac_roman": ("Le café était très bon, naïve façade", "café"),
    "cp932": ("この映画はとても面白かったです。もう一度見たい", "この映画はとても"),
    "euc_jp": ("この映画はとても面白かったです。もう一度見たい", "この映画はとても"),
    "gb18030": ("这部电影非常好看", "这部电影非常好看"),
    "big5hkscs": ("這部電影非常好看", "這部電影非常好看"),
    "cp949": ("이 영화는 정말 재미있었어요. 다시 보고 싶습니다", "이"),
}
"""Texts in the encodings that tables of their languages come in, and a word of each as a message shows it."""


@pytest.mark.parametrize("encoding", TEXTS)
@pytest.mark.parametrize("suffix", [".csv", ".txt.gz"])
def test_what_the_encoding_may_be_is_said_and_never_guessed(tmp_path: Path, encoding: str, suffix: str):
    text, word = TEXTS[encoding]
    path, content = tmp_path / f"t{suffix}", ("text\n" + "plain\n" * 100 + f'"{text}"\n').encode(encoding)
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    (row,) = (row for row in read(path) if row.problem)
    assert row.content == ""
    assert row.problem
    assert f"{encoding} ({word!r})" in row.problem
    assert text in [row.content.strip('"') for row in read(path, encoding=encoding) if isinstance(row.content, str)]


def test_a_few_lines_in_another_encoding_are_not_taken_for_the_encoding_of_the_file(tmp_path: Path):
    path = written(tmp_path / "t.csv", "text\naé\nbé\n".encode() + "cé\n".encode("cp1252"))
    *_, row = read(path)
    assert row.problem == "byte 0xe9 at character 2 is not utf-8; most other lines are, such as line 2: correct it"


def test_utf_8_that_the_settings_call_something_else_is_said(tmp_path: Path):
    path = written(tmp_path / "t.csv", "text\ncafé\nplain\n".encode() + "olé\n".encode("latin-1"))
    (doubt,), *others = [row.remarks for row in read(path, encoding="latin-1")]
    assert doubt == "read as latin-1, and would be valid utf-8; is `encoding` right?"
    assert others == [(), ()]
    row = read(written(path, "text\nà la\n".encode()), encoding="cp1250")[0]
    assert row.remarks
    (row,) = read(written(path, "text\nÁ la\n".encode()), encoding="cp1252")
    assert row.problem
    assert row.problem.endswith("is not cp1252, but utf-8; leave `encoding` out")


def test_bytes_that_are_not_utf_8_cost_their_row_or_name_it(tmp_path: Path):
    path = written(tmp_path / "t.csv", b"text,label\nfine,a\ncaf\xe9,b\ngood,a\n")
    assert [bool(row.problem) for row in read(path, label_column="label")] == [False, True, False]
    written(path, b"text,label\nfine,a\ngood,caf\xe9\n")
    with pytest.raises(UserError, match=r"line 3: column 'label': byte 0xe9 at character 4 is not utf-8; it looks"):
        read(path, label_column="label")
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 2, 3], "i4")), pa.py_buffer(b"ok\xff")]
    )
    pq.write_table(pa.table({"text": bad}), tmp_path / "t.parquet")
    found = [(row.content, row.problem) for row in read(tmp_path / "t.parquet")]
    assert found == [("ok", None), ("", "byte 0xff at character 1 is not utf-8")]


# More formats


def test_json_is_a_list_of_objects(tmp_path: Path):
    path = written(tmp_path / "t.json", json.dumps([{"text": "a"}, {"text": "b", "mood": "good"}]))
    assert [(row.content, row.label) for row in read(path, label_column="mood")] == [("a", None), ("b", "good")]
    for content in ('{"text": "a"}', "[1]", "[" * 100_000, "9" * 5000, '[{"text": "a", "text": "b"}]'):
        with pytest.raises(UserError, match=r"t\.json") as caught:
            read(written(path, content))
        assert "\n" not in str(caught.value)


def test_a_json_object_with_a_key_twice_is_refused(tmp_path: Path):
    path = written(tmp_path / "t.jsonl", '{"text": "a"}\n{"text": "a", "text": "b"}\n')
    with pytest.raises(UserError, match="line 2 is not valid JSON: the key 'text' occurs twice"):
        read(path)


def test_lines_of_a_text_file_are_texts(tmp_path: Path):
    path = written(tmp_path / "t.txt", 'one, "two\n\nthree"\n')
    assert [(row.content, row.line) for row in read(path)] == [('one, "two', 1), ('three"', 3)]
    with pytest.raises(UserError, match="no column 'mood'; there are 'text'"):
        read(path, label_column="mood")


@pytest.mark.parametrize("stream", [False, True])
def test_arrow_is_a_file_or_a_stream(tmp_path: Path, stream: bool):
    table = pa.table({"text": ["a", "b"], "label": [1, 0]})
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(tmp_path / "t.arrow", table.schema) as file:
        file.write_table(table)
    assert [(row.content, row.label) for row in read(tmp_path / "t.arrow", label_column="label")] == [
        ("a", "1"),
        ("b", "0"),
    ]
    with pytest.raises(UserError, match=r"t\.feather: cannot be read"):
        read(written(tmp_path / "t.feather", b"no arrow"))


def test_classes_have_the_names_that_the_package_datasets_wrote(tmp_path: Path):
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"text": ["a", "b", "c"], "label": [1, 0, -1]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "t.parquet")
    assert [row.label for row in read(tmp_path / "t.parquet", label_column="label")] == ["pos", "neg", "-1"]


@pytest.mark.parametrize(
    "described",
    [
        lambda inner: {"feature": inner, "_type": "List"},
        lambda inner: {"feature": inner, "length": -1, "_type": "Sequence"},
        lambda inner: [inner],
    ],
)
def test_classes_in_lists_have_their_names_too(tmp_path: Path, described):
    inner = {"names": ["zebra", "ant"], "_type": "ClassLabel"}
    features = {"label": described(inner), "odd": [], "text": {"dtype": "string", "_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"text": ["a", "b", "c"], "label": [[1, 0], [], [0]]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "t.parquet")
    assert [row.label for row in read(tmp_path / "t.parquet", label_column="label")] == [
        ("ant", "zebra"),
        (),
        ("zebra",),
    ]


COMPRESSORS = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": lambda content: pa.compress(content, "zstd", asbytes=True),
}


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("form", [".csv", ".jsonl"])
def test_compressed_tables_are_read(tmp_path: Path, form: str, suffix: str):
    content = write(tmp_path / f"t{form}", RECORDS).read_bytes()
    path = written(tmp_path / f"t{form}.{suffix}", COMPRESSORS[suffix](content))
    assert read(path, **COLUMNS) == read(tmp_path / f"t{form}", **COLUMNS)
    # Parts that follow one another in one file, as `cat` makes them.
    written(path, COMPRESSORS[suffix](content[:50]) + COMPRESSORS[suffix](content[50:]))
    assert read(path, **COLUMNS) == read(tmp_path / f"t{form}", **COLUMNS)
    for damaged in (path.read_bytes()[:-9], b"not compressed"):
        with pytest.raises(UserError, match=rf"t\{form}\.{suffix}: cannot be read") as caught:
            read(written(path, damaged), **COLUMNS)
        assert "\n" not in str(caught.value)


def test_a_pattern_reads_several_files_in_the_order_of_their_names(tmp_path: Path):
    for number in (2, 1):
        write(tmp_path / f"part-{number}.csv", [{"text": f"a{number}"}, {"text": f"b{number}"}])
    rows = read(tmp_path / "part-*.csv")
    assert [row.content for row in rows] == ["a1", "b1", "a2", "b2"]
    assert rows[3].place == f"row {rows[3].id} (line 3 of {tmp_path}/part-2.csv)"
    names = [str(tmp_path / f"part-{number}.csv") for number in (2, 1)]
    found = text_table.rows(text_table.Settings(path=names))
    assert [row.content for row in found] == ["a2", "b2", "a1", "b1"]
    with pytest.raises(UserError, match="no file matches this pattern"):
        read(tmp_path / "no-*.csv")
    with pytest.raises(UserError, match=r"part-2.csv: is in dataset.source.path twice"):
        list(text_table.rows(text_table.Settings(path=[*names, names[0]])))


# Templates


def test_a_template_makes_one_text_of_several_columns(tmp_path: Path):
    path = write(tmp_path / "t.jsonl", [{"a.x": "It rains.", "b": "Is it wet?"}, {"a.x": "So", "b": ""}])
    rows = read(path, template="{{{a.x}}} Question: {b}")
    assert [(row.content, row.problem) for row in rows] == [
        ("{It rains.} Question: Is it wet?", None),
        ("", "nothing in column 'b'"),
    ]
    for template in ("no column", "{}", "{b:5}", "{b!r}", "{b"):
        with pytest.raises(UserError, match=r"dataset\.source\.template: "):
            read(path, template=template)


MARKS = [
    "a",
    "1",
    ",",
    '"',
    '""',
    "\n",
    "\r\n",
    "\\",
    " ",
    "é",
    '"a',
    'a"',
    '","',
    '",\n',
    "a,b\n",
    '"a","b"\n',
    '"a, b",b\r\n',
]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(MARKS), max_size=25).map("".join),
    st.sampled_from([None, "doubled", "backslash", "none"]),
    st.sampled_from([(), ("label",)]),
    st.sampled_from([["text", "label"], ["text"]]),
    st.integers(1, 6),
)
def test_lines_that_are_read_together_are_read_as_row_by_row(
    content: str, quotes: str | None, labels: tuple[str, ...], header: list[str], size: int
):
    wanted = Wanted(header, header, labels)

    def found() -> list[object]:
        lines = iter(io.StringIO(f"{','.join(header)}\n{content}", newline=""))
        rows: list[object] = []
        try:
            for block in _csv.read(lines, "t.csv", ",", quotes, wanted, size):
                assert [[row.cells[name] for row in block.rows()] for name in header] == [*block.cells.values()]
                rows += block.rows()
        except UserError as error:
            rows = [str(error)]
        return rows

    together = found()
    with patch.object(_csv, "_cells", lambda *given: None):
        assert found() == together


def test_usual_tables_are_read_together():
    rows = [("fine", "a"), ('so "good", no', "b"), ("déjà", "a"), ("", "b")]
    for quoting, ends in itertools.product((csv.QUOTE_MINIMAL, csv.QUOTE_ALL), ("\n", "\r\n")):
        file = io.StringIO(newline="")
        csv.writer(file, quoting=quoting, lineterminator=ends).writerows([("text", "label"), *rows])
        file.seek(0)
        wanted = Wanted(["text"], ["text"], [])
        with patch.object(_csv._Doubts, "look", side_effect=AssertionError):
            (block,) = _csv.read(iter(file), "t.csv", ",", None, wanted, 10)
        assert block.cells == {"text": [text for text, _ in rows]}
        assert [row.number for row in block.rows()] == [2, 3, 4, 5]
