"""Stores from elsewhere: whatever is in one, each command ends soon, with one line, in bounded memory."""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.files import Lock, write_atomically
from pipeline.store import FeatureStore, Head, RowIndex, StoreWriter
from pipeline.store.format import ATTRIBUTE, signed, written
from pipeline.store.inspection import describe, diff, leftovers, list_stores
from pipeline.store.interchange import export
from pipeline.store.verification import verify

FILES = (
    "zarr.json", "pooled/zarr.json", "pooled/c.0.json", "pooled/c.0.0", "small/c.0.json", "small.scale/c.0",
    "rows/id_ends/c.0", "rows/id_bytes/c.0", "rows/digests/c.0.0",
)  # fmt: skip
Change = Callable[[Path], object]


def _deep(path: Path) -> None:
    path.write_text("[" * 100_000 + "]" * 100_000)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        try:
            bound.bind(path.name)
        finally:
            os.chdir(here)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


KINDS: dict[str, Change] = {
    "missing": lambda path: None,
    "pipe": os.mkfifo,
    "socket": _socket,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "empty": Path.touch,
    "deep": _deep,
    "sparse": _sparse,
    "text": lambda path: path.write_text('{"start": "\x1b[2J"}'),
}

CLAIMS: dict[str, Callable[[dict], object]] = {
    "10^9 rows": lambda record: record.update(rows=10**9),
    "10^12 rows": lambda record: record.update(rows=10**12),
    "10^12 rows in one shard": lambda record: record.update(rows=10**12, shard_rows=10**12),
    "10^30 rows": lambda record: record.update(rows=10**30),
    "no rows": lambda record: record.update(rows=0),
    "negative rows": lambda record: record.update(rows=-5),
    "rows as text": lambda record: record.update(rows="40"),
    "rows as float": lambda record: record.update(rows=40.0),
    "rows as bool": lambda record: record.update(rows=True),
    "10^30 shard rows": lambda record: record.update(shard_rows=10**30),
    "zero shard rows": lambda record: record.update(shard_rows=0),
    "negative shape": lambda record: record["heads"]["pooled"].update(shape=[-4]),
    "huge shape": lambda record: record["heads"]["pooled"].update(shape=[10**18]),
    "huger shape": lambda record: record["heads"]["pooled"].update(shape=[2**62] * 40),
    "many dimensions": lambda record: record["heads"]["pooled"].update(shape=[1] * 5000),
    "shape of text": lambda record: record["heads"]["pooled"].update(shape="4"),
    "strange dtype": lambda record: record["heads"]["pooled"].update(dtype="object"),
    "dtype as list": lambda record: record["heads"]["pooled"].update(dtype=["float16"]),
    "int8 numbers": lambda record: record["heads"]["pooled"].update(shape=[], dtype="int8"),
    "strange codec": lambda record: record["heads"]["pooled"].update(codec={"name": "pickle"}),
    "head with a path": lambda record: record["heads"].update({"../../up": record["heads"]["pooled"]}),
    "head with escapes": lambda record: record["heads"].update({"a\n\x1b[2J": record["heads"]["pooled"]}),
    "heads as list": lambda record: record.update(heads=[1]),
    "no heads": lambda record: record.update(heads={}),
    "recipe as text": lambda record: record.update(recipe="none"),
    "recipe of escapes": lambda record: record.update(recipe={"a\x1b[2J\n": "\x1b]0;title\x07"}),
    "dataset as number": lambda record: record.update(dataset=5),
    "version of a huge text": lambda record: record.update(version="9" * 1_000_000),
    "version as list": lambda record: record.update(version=[[[1]]]),
    "created by nobody": lambda record: record.update(created_by=None),
    "lone surrogate": lambda record: record.update(dataset="\ud800"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("sound") / "store.zarr"
    random = np.random.default_rng(0)
    rows = RowIndex([f"r{row}" for row in range(40)], random.integers(0, 256, (40, 16), dtype=np.uint8))
    heads = {"pooled": Head((4,), "float16", "raw"), "small": Head((4,), "int8", "raw"), "z": Head((4,), codec="zstd")}
    with StoreWriter.open(path, rows=rows, dataset="d", recipe={"a": 1}, heads=heads, shard_rows=16) as writer:
        for shard in writer.missing():
            writer.write(shard, {name: random.normal(size=(shard.stop - shard.start, 4)) for name in heads})
    return path


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "stores" / "store.zarr"))


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Two GiB more than what is mapped now: what a store claims must not be allocated."""
    monkeypatch.setenv("AFT_CACHE", str(tmp_path / "cache"))
    before = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def _use(store: Path) -> int:
    """Do everything that commands do with a store. Returns how often it was refused; nothing else may be raised."""
    refused = 0

    def attempt(what: Callable[[], object]) -> None:
        nonlocal refused
        try:
            str(what())
        except UserError:
            refused += 1

    def read() -> object:
        opened = FeatureStore.open(store)
        return [opened.ids, *(opened.reader(head)(np.arange(len(opened))) for head in opened.heads)]

    attempt(lambda: verify(store))
    attempt(lambda: describe(store))
    attempt(lambda: list_stores(store.parent))
    attempt(lambda: diff(store, store))
    attempt(lambda: leftovers(store.parent, store.parent / "cache", delete=False))
    attempt(lambda: export(FeatureStore.open(store), store.parent / "out.npy", "pooled"))
    attempt(read)
    return refused


def test_a_sound_store_is_used(store: Path):
    assert _use(store) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_something_else(store: Path, file: str, kind: str):
    (store / file).unlink()
    KINDS[kind](store / file)
    assert _use(store) > 0 or not verify(store).sound


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_that_is_signed(store: Path, claim: str):
    group = json.loads((store / "zarr.json").read_text())
    record = group["attributes"][ATTRIBUTE]
    record.pop("digest")
    CLAIMS[claim](record)
    try:
        text = written({**group, "attributes": {ATTRIBUTE: signed(record)}})
    except UnicodeEncodeError:
        text = json.dumps({**group, "attributes": {ATTRIBUTE: {**record, "digest": "0" * 32}}}).encode()
    (store / "zarr.json").write_bytes(text)
    assert _use(store) > 0 or claim.startswith("recipe of escapes")


def test_verify_says_at_once_that_rows_are_not_there(store: Path):
    test_a_claim_that_is_signed(store, "10^12 rows")
    found = verify(store)
    assert len(found.faults) == 1 and "claims 1,000,000,000,000 rows" in str(found)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "1" * 200, "x" * 200, "-rf", "\u0661"])
def test_strange_names_below_replaced(store: Path, name: str):
    folder = store / "replaced" / name
    folder.mkdir(parents=True)
    shutil.copy(store / "zarr.json", folder)
    assert _use(store) == 0
    assert folder.exists()
    leftovers(store.parent, store.parent / "cache", delete=True)
    assert folder.exists()  # it is not ours


def test_folders_deeper_than_the_stack(store: Path):
    below = store / "replaced"
    script = "import os, sys\nfor _ in range(3000):\n    os.mkdir('a'); os.chdir('a')"
    below.mkdir()
    subprocess.run([sys.executable, "-c", script], cwd=below, check=True)
    try:
        _use(store)
    finally:
        subprocess.run(["rm", "-rf", str(below)], check=True)


@pytest.mark.parametrize("change", ["another shard", "bytes", "checksum", "files", "start"])
def test_a_marker_of_something_else(store: Path, change: str):
    path = store / "pooled" / "c.0.json"
    record = json.loads(path.read_text())
    record.pop("digest")
    match change:
        case "another shard":
            record = json.loads((store / "pooled" / "c.1.json").read_text()) | {}
            record.pop("digest")
        case "bytes":
            record["files"]["pooled"]["bytes"] = 10**15
        case "checksum":
            record["files"]["pooled"]["checksum"] = None
        case "files":
            record["files"] = ["pooled"]
        case "start":
            record["start"] = "0"
    path.write_bytes(written(signed(record)))
    assert _use(store) > 0


def test_nothing_is_written_through_a_link(store: Path, tmp_path: Path):
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (store / "locks").mkdir(exist_ok=True)
    (store / "locks" / "setup").unlink(missing_ok=True)
    (store / "locks" / "setup").symlink_to(precious)
    _use(store)
    with pytest.raises(UserError):
        Lock(store / "locks" / "setup").acquire()
    (tmp_path / "record.json.partial").symlink_to(precious)
    with pytest.raises(UserError):
        write_atomically(tmp_path / "record.json", "text")
    assert precious.read_text() == "kept"
