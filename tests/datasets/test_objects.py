"""Sources on object storage: a dataset has the bytes that it has from the same files here, whatever the network does.

Each source is made in a folder and sent to a service that speaks S3; see `tests/store/backends/s3.py`.
"""

import gzip
import random
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import objects
from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.datasets import Row
from pipeline.errors import UserError
from pipeline.extraction import ExtractSettings, extract
from pipeline.machine import Machine
from pipeline.objects import ObjectPath, place
from pipeline.params import parse, read_plugin
from pipeline.store import FeatureStore
from tests.datasets.test_locations import ROWS, Means, encoded, folder, jpeg, shards, table
from tests.datasets.test_locations import settings as image_settings
from tests.store.backends.s3 import BUCKET, Service

NUMBERS = count()

Source = dict[str, Any]


def texts() -> dict[str, list[Any]]:
    words = ["one", "zwei", "três", "четыре"]
    return {
        "id": [f"r{n:03}" for n in range(200)],
        "text": [f"{words[n % 4]} {words[n * 7 % 3]} {n}" for n in range(200)],
        "label": ["ab"[n % 2] for n in range(200)],
        "unused": [bytes(np.random.default_rng(n).integers(0, 255, 20_000, np.uint8)) for n in range(200)],
    }


def text_source(root: Path, pattern: str) -> Source:
    keys = {"family": "text_table", "id_column": "id", "label_column": "label"}
    return {**keys, "path": str(root / "raw" / pattern)}


def parquet(root: Path) -> Source:
    (root / "raw").mkdir()
    for part in range(2):
        rows = pa.table(texts()).slice(100 * part, 100)
        pq.write_table(rows, root / "raw" / f"part-{part}.parquet", row_group_size=50)
    return text_source(root, "part-*.parquet")


def arrow(root: Path) -> Source:
    (root / "raw").mkdir()
    rows = pa.table(texts())
    with pa.ipc.new_file(root / "raw" / "t.arrow", rows.schema) as file:
        file.write_table(rows, 50)
    return text_source(root, "t.arrow")


def lines(root: Path) -> str:
    (root / "raw").mkdir()
    found = texts()
    return "\n".join(
        ["id,text,label", *map(",".join, zip(found["id"], found["text"], found["label"], strict=True)), ""]
    )


def csv(root: Path) -> Source:
    (root / "raw" / "t.csv").write_text(lines(root))
    return text_source(root, "t.csv")


def packed_csv(root: Path) -> Source:
    (root / "raw" / "t.csv.gz").write_bytes(gzip.compress(lines(root).encode()))
    return text_source(root, "t.csv.gz")


def packed_shards(root: Path) -> Source:
    return shards(root, compress=True)


TEXTS = {"parquet": parquet, "arrow": arrow, "csv": csv, "csv.gz": packed_csv}
IMAGES = {"folder": folder, "table": table, "shards": shards, "shards.gz": packed_shards, "images in parquet": encoded}


def settings(source: Source, **keys: Any) -> PrepareSettings:
    if source["family"] == "text_table":
        return parse(PrepareSettings, {"source": source, "test": 20, "val": 20, **keys}, "dataset")
    return image_settings(source, **{"content": "copy", **keys})


@pytest.fixture
def send(service: Service) -> Callable[[Path, Source], Source]:
    """Puts the files below a folder into a new place there; returns the source with that place for the folder."""

    def sent(root: Path, source: Source) -> Source:
        prefix = f"sent {next(NUMBERS)}"
        for path in sorted(root.rglob("*")):
            if path.is_file():
                service.put(f"{prefix}/{path.relative_to(root).as_posix()}", path.read_bytes())
        return {**source, "path": source["path"].replace(str(root), f"s3://{BUCKET}/{prefix}")}

    return sent


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


@pytest.mark.parametrize("make", [*TEXTS.values(), *IMAGES.values()], ids=[*TEXTS, *IMAGES])
def test_a_dataset_has_the_bytes_of_one_whose_source_is_here(
    tmp_path: Path, service: Service, send: Callable[..., Source], make: Callable[[Path], Source]
):
    (tmp_path / "here").mkdir()
    here = make(tmp_path / "here")
    there = send(tmp_path / "here", here)
    drawn = random.Random(0)

    def now_and_then(request: dict[str, Any]) -> str | None:
        return drawn.choice(["500", "cut", "half"]) if drawn.random() < 0.1 else None

    expected = prepare(settings(here), tmp_path / "expected")
    with service.with_rule(now_and_then):
        found = prepare(settings(there), tmp_path / "found")
    assert found.digest == expected.digest and files(tmp_path / "found") == files(tmp_path / "expected")
    for path in (tmp_path / "found").iterdir():
        assert b"never-in-a-file" not in path.read_bytes()


@pytest.mark.parametrize("make", [parquet, folder])
def test_a_listing_that_breaks_off_is_asked_for_again(
    tmp_path: Path, service: Service, send: Callable[..., Source], make: Callable[[Path], Source]
):
    (tmp_path / "here").mkdir()
    there = send(tmp_path / "here", make(tmp_path / "here"))
    listings = count()

    def every_other(request: dict[str, Any]) -> str | None:
        return "half" if "list-type" in request["QUERY_STRING"] and next(listings) % 2 == 0 else None

    with service.with_rule(every_other):
        found = prepare(settings(there), tmp_path / "found")
    assert next(listings) > 1 and found.digest == prepare(settings(there), tmp_path / "again").digest


def test_rows_without_labels_come_from_there_too(tmp_path: Path, send: Callable[..., Source]):
    (tmp_path / "here").mkdir()
    here = parquet(tmp_path / "here")
    there = send(tmp_path / "here", here)
    own = {**here, "path": here["path"].replace("*", "0")}
    further = [{**source, "path": source["path"].replace("*", "1")} for source in (here, there)]
    one, two = (prepare(settings(own, unlabelled=source), tmp_path / str(n)) for n, source in enumerate(further))
    assert one.digest == two.digest and "100 rows seen, 100 used" in one.notes[0]


@pytest.mark.parametrize("make", [folder, table, shards])
def test_images_that_stay_there_are_read_at_their_place(
    tmp_path: Path, service: Service, send: Callable[..., Source], make: Callable[[Path], Source]
):
    (tmp_path / "here").mkdir()
    there = send(tmp_path / "here", make(tmp_path / "here"))
    copied, referred = (prepare(settings(there, content=how), tmp_path / how) for how in ("copy", "reference"))
    one, two = Dataset.open(tmp_path / "copy"), Dataset.open(tmp_path / "reference")
    assert copied.digest == referred.digest and (tmp_path / "reference" / "content.arrow").stat().st_size < 20_000
    rows = np.random.default_rng(0).permutation(ROWS)
    service.requests.clear()
    assert two.content(rows) == one.content(rows)
    assert len(service.requests) == ROWS, "one request a row"
    how = parse(ExtractSettings, {"shard_rows": 8, "batch_size": 4}, "extract")
    for content in ("copy", "reference"):
        extract(Dataset.open(tmp_path / content), Means(), tmp_path / f"{content}.zarr", how, Machine(workers=1))
    assert np.array_equal(*(FeatureStore.open(tmp_path / f"{content}.zarr")[:] for content in ("copy", "reference")))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda service, key, whole: service.put(key, jpeg(99)), r"row a/00\.jpg has changed since it was prepared"),
        (lambda service, key, whole: service.put(key, whole[:-1]), "has changed since it was prepared"),
        (lambda service, key, whole: service.put(key, b""), "has changed since it was prepared"),
        (lambda service, key, whole: service.delete(key), r"00\.jpg: not there, and the dataset refers to it; put it"),
    ],
    ids=["another", "shorter", "empty", "gone"],
)
def test_another_object_is_never_taken_for_the_row(
    tmp_path: Path, service: Service, send: Callable[..., Source], harm: Any, message: str
):
    (tmp_path / "here").mkdir()
    there = send(tmp_path / "here", folder(tmp_path / "here"))
    prepare(settings(there, content="reference"), tmp_path / "data")
    data = Dataset.open(tmp_path / "data")
    assert data.ids[0] == "a/00.jpg" and data.content([0]) == [jpeg(0)]
    harm(service, f"{ObjectPath(there['path']).key}/a/00.jpg", jpeg(0))
    for read in (lambda: data.content([1, 0]), lambda: data.image(0), data.verify):
        with pytest.raises(UserError, match=message):
            read()


def test_a_shard_that_became_shorter_has_no_row_behind_its_end(
    tmp_path: Path, service: Service, send: Callable[..., Source]
):
    (tmp_path / "here").mkdir()
    there = send(tmp_path / "here", shards(tmp_path / "here"))
    prepare(settings(there, content="reference"), tmp_path / "data")
    service.put(f"{ObjectPath(there['path']).parent.key}/1.tar", bytes(10240))
    data = Dataset.open(tmp_path / "data")
    with pytest.raises(UserError, match=rf"1\.tar: row {data.ids[ROWS - 1]} has changed since it was prepared"):
        data.content([ROWS - 1])


def test_only_a_part_of_an_object_is_in_memory_and_nothing_on_the_disk(
    tmp_path: Path, service: Service, send: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here").mkdir()
    there = send(tmp_path / "here", shards(tmp_path / "here"))
    monkeypatch.setattr(objects, "READ_AHEAD", 8192)
    sizes: list[int] = []

    def seen(request: dict[str, Any]) -> None:
        if request["REQUEST_METHOD"] == "GET" and request["PATH_INFO"].endswith(".tar"):
            first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", request.get("HTTP_RANGE", "all")).groups()  # type: ignore[union-attr]
            sizes.append(int(last) - int(first) + 1)

    with service.with_rule(seen):
        prepare(settings(there, content="reference"), tmp_path / "data")
    whole = sum(path.stat().st_size for path in (tmp_path / "here").rglob("*.tar"))
    assert max(sizes) <= 8192 and 2 * whole <= sum(sizes) < 2.5 * whole, "two passes over the bytes"


def test_of_parquet_only_the_columns_that_are_wanted_are_fetched(
    tmp_path: Path, service: Service, send: Callable[..., Source]
):
    (tmp_path / "here").mkdir()
    there = send(tmp_path / "here", parquet(tmp_path / "here"))
    sizes: list[int] = []

    def seen(request: dict[str, Any]) -> None:
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", request.get("HTTP_RANGE", "")):
            sizes.append(int(found[2]) - int(found[1]) + 1)

    with service.with_rule(seen):
        prepare(settings(there), tmp_path / "data")
    whole = sum(path.stat().st_size for path in (tmp_path / "here").rglob("*.parquet"))
    assert sum(sizes) < whole / 3, "the column of 4 MB is not among them, in two passes"


def test_an_object_that_is_replaced_while_it_is_read_ends_the_reading(
    tmp_path: Path, service: Service, send: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here").mkdir()
    there = send(tmp_path / "here", shards(tmp_path / "here"))
    monkeypatch.setattr(objects, "READ_AHEAD", 8192)
    family, parsed = read_plugin("datasets", {**there}, "dataset.source")
    rows = family.rows(parsed)
    assert isinstance(next(rows), Row)
    key = f"{ObjectPath(there['path']).parent.key}/0.tar"
    service.put(key, (tmp_path / "here" / "raw" / "1.tar").read_bytes())
    with pytest.raises(UserError, match=r"^s3://.*/0\.tar: was replaced or deleted while it was read; run it again$"):
        list(rows)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (f"s3://{BUCKET}/none.csv", f"s3://{BUCKET}/none.csv: no such file; check dataset.source.path"),
        (f"s3://{BUCKET}/none-*.csv", f"s3://{BUCKET}/none-*.csv: no file matches this pattern; check"),
        ("s3://nowhere/t.csv", "s3://nowhere/t.csv: there is no bucket nowhere; create it, or correct the URL"),
        ("s3://nowhere/*.csv", "s3://nowhere/*.csv: there is no bucket nowhere; create it, or correct the URL"),
        ("s3://key:secret@bucket/t.csv", "s3://bucket: a URL with credentials would end up in logs; set AWS_ACCESS"),
        ("s3://bucket/t.csv?X-Amz-Signature=secret", "s3://bucket: a URL with credentials would end up in logs; set"),
        ("az://container/t.csv", "az://container: no credentials; set AZURE_STORAGE_ACCOUNT_NAME"),
        (
            "https://host/t.csv",
            "https://host/t.csv: a URL, and a path is needed there, or a URL with s3://, gs:// or az",
        ),
        ("https://key:secret@host/t.csv?signature=secret", "https://host/t.csv: a URL, and a path is needed there, or"),
    ],
)
def test_a_place_where_nothing_is_gets_one_line(tmp_path: Path, service: Service, path: str, line: str):
    for source in (
        {"family": "text_table", "path": path},
        {"family": "webdataset", "path": path.replace(".csv", ".tar")},
    ):
        with pytest.raises(
            UserError, match=f"^{re.escape(line.replace('.csv', '.tar')[:60])}|^{re.escape(line)}"
        ) as it:
            prepare(settings({**source}), tmp_path / "data")
        assert "\n" not in str(it.value) and "secret" not in str(it.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("path", [f"s3://{BUCKET}/no folder", "s3://nowhere/photos"])
def test_a_folder_that_is_not_there_gets_one_line(tmp_path: Path, service: Service, path: str):
    with pytest.raises(UserError, match=r"no such folder; check|there is no bucket nowhere"):
        prepare(settings({"family": "image_folder", "path": path}), tmp_path / "data")


@pytest.mark.parametrize("fault", ["503", "half", "cut"])
def test_a_service_that_stays_away_is_said_in_one_line_and_the_data_are_as_they_were(
    tmp_path: Path, service: Service, send: Callable[..., Source], fault: str, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here").mkdir()
    there = send(tmp_path / "here", parquet(tmp_path / "here"))
    prepare(settings(there), tmp_path / "data")
    before = files(tmp_path / "data")
    monkeypatch.setattr(objects, "PATIENCE", 0.3)
    objects._bucket.cache_clear()

    def away(request: dict[str, Any]) -> str | None:
        return fault if request["REQUEST_METHOD"] == "GET" and request["PATH_INFO"].endswith("part-1.parquet") else None

    with service.with_rule(away), pytest.raises(UserError, match=r"^s3://.*/part-1\.parquet: .*; ") as found:
        prepare(settings(there), tmp_path / "data")
    assert "\n" not in str(found.value) and files(tmp_path / "data") == before
    assert prepare(settings(there), tmp_path / "data").digest == Dataset.open(tmp_path / "data").digest


@pytest.mark.parametrize("fault", ["503", "cut"])
def test_no_row_is_dropped_because_the_service_stays_away(
    tmp_path: Path, service: Service, send: Callable[..., Source], fault: str, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here").mkdir()
    there = send(tmp_path / "here", table(tmp_path / "here"))
    monkeypatch.setattr(objects, "PATIENCE", 0.3)
    objects._bucket.cache_clear()

    def away(request: dict[str, Any]) -> str | None:
        return fault if request["REQUEST_METHOD"] == "GET" and request["PATH_INFO"].endswith("a/00.jpg") else None

    tolerant = settings(there).model_copy(update={"tolerance": 0.5})
    with service.with_rule(away), pytest.raises(UserError, match=r"^s3://.*/a/00\.jpg: "):
        prepare(tolerant, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_without_credentials_it_is_said_which(tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(objects, "PATIENCE", 0.3)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1/169.254.169.254")
    with pytest.raises(UserError, match=f"^s3://{BUCKET}/t.csv: no credentials; set AWS_ACCESS_KEY_ID and"):
        prepare(settings({"family": "text_table", "path": f"s3://{BUCKET}/t.csv"}), tmp_path / "data")


def test_images_next_to_a_table_that_is_there_and_at_other_places(
    tmp_path: Path, service: Service, send: Callable[..., Source]
):
    root = tmp_path / "here"
    root.mkdir()
    source = table(root)
    service.put("elsewhere/x y.jpg", jpeg(50))
    rows = [
        "images/a/00.jpg",
        "../raw/images/b/01.jpg",
        f"s3://{BUCKET}/elsewhere/x y.jpg",
        "none.jpg",
        "/none.jpg",
    ]
    (root / "raw" / "list.csv").write_text("\n".join(["image,label", *(f"{row},a" for row in rows), ""]))
    there = send(root, source)
    family, parsed = read_plugin("datasets", there, "dataset.source")
    found = list(family.rows(parsed))
    assert [row.content for row in found] == [jpeg(0), jpeg(1), jpeg(50), b"", b""]
    assert [row.problem for row in found] == [*[None] * 3, *["cannot be read: no such object"] * 2]
    # A table that is here may name images that are there.
    family, parsed = read_plugin("datasets", source, "dataset.source")
    assert [row.content for row in family.rows(parsed)] == [row.content for row in found]
    assert not (tmp_path / ".aft").exists()


def test_names_that_are_odd_are_found(service: Service):
    names = ("50%.txt", "x?y#z.txt", "é[1].txt", "sub/.hidden", "sub/t.txt", ".cache/t.txt", "folder/")
    for key in (f"odd/{name}" for name in names):
        service.put(key, b"0123456789" if key[-1] != "/" else b"")
    there = ObjectPath(f"s3://{BUCKET}/odd")
    assert [path.name for path, is_folder in there.children() if not is_folder] == ["50%.txt", "x?y#z.txt", "é[1].txt"]
    assert {path.read(2, 3) for path, is_folder in there.children() if not is_folder} == {b"234"}
    assert [path.name for path, is_folder in there.children() if is_folder] == [".cache", "folder", "sub"]
    assert (there / "folder").children() == [] and (there / "folder").is_dir() and not (there / "fold").is_dir()
    assert [path.name for path in (there / "**/*.txt").matching()] == ["50%.txt", "t.txt", "x?y#z.txt", "é[1].txt"]
    assert [path.name for path in ObjectPath(f"s3://{BUCKET}/od*/*/*").matching()] == ["t.txt"]
    assert ObjectPath(f"s3://{BUCKET}") / "x.txt" == ObjectPath(f"s3://{BUCKET}/x.txt")
    pattern = place(f"s3://{BUCKET}/odd/??%.txt")
    assert isinstance(pattern, ObjectPath) and [path.name for path in pattern.matching()] == ["50%.txt"]


@pytest.mark.parametrize("mark", "?#%")
def test_a_store_is_never_opened_at_a_part_of_its_url(mark: str):
    url = f"s3://bucket/features{mark}20/x"
    with pytest.raises(UserError, match=f"^{re.escape(url)}: no store can be there, because of the {re.escape(mark)};"):
        objects.connect(url)


@pytest.mark.parametrize("pattern", ["*", "**", "**/*", "*.csv"])
def test_an_empty_object_that_stands_for_a_folder_is_no_file(service: Service, pattern: str):
    root = f"empty {next(NUMBERS)}"
    service.put(f"{root}/", b"")
    service.put(f"{root}/deep/", b"")
    folder = ObjectPath(f"s3://{BUCKET}/{root}")
    assert (folder / pattern).matching() == []
    service.put(f"{root}/a.csv", b"text")
    assert [path.name for path in (folder / pattern).matching()] == ["a.csv"]
    assert [path.name for path, _ in folder.children()] == ["a.csv", "deep"]
