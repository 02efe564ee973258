"""What a store from elsewhere may hold: one table of changes to a sound one, for tests in a process and by commands."""

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.checksum import checksum
from pipeline.store.format import ATTRIBUTE, signed, written

Change = Callable[[Path], object]
"""Changes the store in a folder. It has a head `pooled` of more than one shard."""


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


def _sparse(path: Path, size: int = 1 << 40) -> None:
    path.touch()
    os.truncate(path, size)


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
    "large": lambda path: _sparse(path, 3 << 30),
    "text": lambda path: path.write_text('{"start": "\x1b[2J"}'),
    "root": lambda path: path.symlink_to("/"),
}
"""What may be where a file or a folder should be."""

FILES = (
    "zarr.json", "pooled/zarr.json", "pooled/c.0.json", "pooled/c.0.0", "rows/zarr.json", "rows/id_ends/c.0",
    "rows/id_bytes/c.0", "rows/digests/c.0.0", "rows/digests/zarr.json",
)  # fmt: skip
TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "a byte-order mark": lambda text: b"\xef\xbb\xbf" + text,
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "a key twice": lambda text: re.sub(rb'("\w+": )', rb"\1null, \1", text, count=1),
    "NaN": lambda text: re.sub(rb": (\d+|\")", rb": NaN, \"x\": \1", text, count=1),
    "Infinity": lambda text: re.sub(rb": (\d+|\")", rb": -Infinity, \"x\": \1", text, count=1),
    "10^5 digits": lambda text: re.sub(rb": (\d+|\")", b": " + b"9" * 100_000 + rb', "x": \1', text, count=1),
    "a huge exponent": lambda text: re.sub(rb": (\d+|\")", rb': 1e999999999, "x": \1', text, count=1),
    "no UTF-8": lambda text: text.replace(b'"', b'"\xff', 1),
    "half a character": lambda text: text.replace(b'"', b'"\\ud800', 1),
    "zero bytes": lambda text: text + bytes(1 << 20),
    "itself again": lambda text: text + text,
    "spaces": lambda text: text + b" " * (16 << 20),
    "other line ends": lambda text: text.replace(b"\n", b"\r\n"),
}
"""Changes to the text of a record."""

INSTEAD_OF_A_FOLDER = ("pipe", "socket", "zeros", "loop", "root", "empty")
FOLDERS = ("pooled", "rows", "rows/id_ends", "locks", "replaced", "replaced/1", ".")
"""Also those that no finished store has."""

CLAIMS: dict[str, Callable[[dict[str, Any]], object]] = {
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
    "a row a shard": lambda record: record.update(shard_rows=1),
    "negative shape": lambda record: record["heads"]["pooled"].update(shape=[-4]),
    "huge shape": lambda record: record["heads"]["pooled"].update(shape=[10**18]),
    "huger shape": lambda record: record["heads"]["pooled"].update(shape=[2**62] * 40),
    "many dimensions": lambda record: record["heads"]["pooled"].update(shape=[1] * 5000),
    "shape of text": lambda record: record["heads"]["pooled"].update(shape="4"),
    "strange dtype": lambda record: record["heads"]["pooled"].update(dtype="object"),
    "another dtype": lambda record: record["heads"]["pooled"].update(dtype="int8"),
    "dtype as list": lambda record: record["heads"]["pooled"].update(dtype=["float16"]),
    "int8 numbers": lambda record: record["heads"]["pooled"].update(shape=[], dtype="int8"),
    "strange codec": lambda record: record["heads"]["pooled"].update(codec={"name": "pickle"}),
    "head with a path": lambda record: record["heads"].update({"../../up": record["heads"]["pooled"]}),
    "head with a dot": lambda record: record["heads"].update({".": record["heads"]["pooled"]}),
    "head with escapes": lambda record: record["heads"].update({"a\n\x1b[2J": record["heads"]["pooled"]}),
    "200 heads": lambda record: record["heads"].update({f"h{n}": record["heads"]["pooled"] for n in range(200)}),
    "heads as list": lambda record: record.update(heads=[1]),
    "no heads": lambda record: record.update(heads={}),
    "view as text": lambda record: record["heads"]["pooled"].update(view="flip"),
    "recipe as text": lambda record: record.update(recipe="none"),
    "recipe of escapes": lambda record: record.update(recipe={"a\x1b[2J\n": "\x1b]0;title\x07"}),
    "dataset as number": lambda record: record.update(dataset=5),
    "version of a huge text": lambda record: record.update(version="9" * 1_000_000),
    "version as list": lambda record: record.update(version=[[[1]]]),
    "created by nobody": lambda record: record.update(created_by=None),
    "lone surrogate": lambda record: record.update(dataset="\ud800"),
    "10^9 shards": lambda record: record.update(rows=10**9, shard_rows=1),
    "dtype of bytes": lambda record: record["heads"]["pooled"].update(dtype="V1000000000"),
    "dtype of fields": lambda record: record["heads"]["pooled"].update(dtype="f4,f4"),
    "head of the rows": lambda record: record["heads"].update(rows=record["heads"]["pooled"]),
    "deep recipe": lambda record: record.update(recipe=_nested(900)),
    "shape of floats": lambda record: record["heads"]["pooled"].update(shape=[4.0]),
    "shape of a bool": lambda record: record["heads"]["pooled"].update(shape=[True]),
}
"""Changes to what the store's own record says."""

HARMLESS = ("claims: recipe of escapes", "claims: view as text")
"""Those of `STORES` that a store may hold."""


def _nested(depth: int) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(depth):
        nested = {"a": nested}
    return nested


ARRAYS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no chunks": lambda array: array["chunk_grid"]["configuration"].update(chunk_shape=[0, 0]),
    "negative chunks": lambda array: array["chunk_grid"]["configuration"].update(chunk_shape=[-1, 4]),
    "codec of nobody": lambda array: array.update(codecs=[{"name": "pickle"}]),
    "no codecs": lambda array: array.update(codecs=[]),
    "another data type": lambda array: array.update(data_type="int64"),
    "a fill value of ours": lambda array: array.update(fill_value=1.0),
    "10^30 rows": lambda array: array.update(shape=[10**30, 4]),
    "a group": lambda array: array.update(node_type="group"),
    "objects": lambda array: array.update(data_type="object", fill_value={}),
    "texts": lambda array: array.update(data_type="string", fill_value="x" * 1000),
    "10^9 bytes a value": lambda array: array.update(data_type={"name": "r8000000000"}, fill_value=[]),
    "a fill value that is no number": lambda array: array.update(fill_value="NaN"),
    "an infinite fill value": lambda array: array.update(fill_value="-Infinity"),
    "a fill value of objects": lambda array: array.update(fill_value=[{"a": [1]}]),
    "10^12 chunks": lambda array: array["chunk_grid"]["configuration"].update(chunk_shape=[1, 1]),
    "a chunk of 10^15 bytes": lambda array: array["chunk_grid"]["configuration"].update(chunk_shape=[10**15, 4]),
    "a grid of nobody": lambda array: array.update(chunk_grid={"name": "rectilinear", "configuration": {"a": []}}),
    "keys that lead out": lambda array: array["chunk_key_encoding"]["configuration"].update(separator="/../"),
    "codecs in codecs": lambda array: array.update(
        codecs=[{"name": "sharding_indexed", "configuration": dict(array)}] * 2
    ),
    "numcodecs": lambda array: array.update(codecs=[{"name": "numcodecs.pickle", "configuration": {}}]),
    "the format of 2": lambda array: array.update(zarr_format=2),
}
"""Changes to what an array says of itself, for other readers of Zarr."""

MARKERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "of 10^15 bytes": lambda record: record["files"]["pooled"].update(bytes=10**15),
    "of -1 bytes": lambda record: record["files"]["pooled"].update(bytes=-1),
    "of no checksum": lambda record: record["files"]["pooled"].update(checksum=None),
    "of a list of files": lambda record: record.update(files=["pooled"]),
    "of another file": lambda record: record.update(files={"../../up": record["files"]["pooled"]}),
    "of rows from a text on": lambda record: record.update(start="0"),
    "of other rows": lambda record: record.update(start=16, stop=32),
    "of another recipe": lambda record: record.update(identity="0" * 32),
}
"""Changes to what a marker says of a shard."""


def rewrite(path: Path, change: Callable[[dict[str, Any]], object], sign: bool = True) -> None:
    """Change a record and sign it, as somebody does who knows the format."""
    content = json.loads(path.read_bytes())
    record = content["attributes"][ATTRIBUTE] if ATTRIBUTE in content.get("attributes", {}) else content
    digest = record.pop("digest", None)
    change(record)
    if digest is None or not sign:
        record.update({} if digest is None else {"digest": digest})
        text = written(content)
    else:
        try:
            record.update(signed(record))
            text = written(content)
        except UnicodeEncodeError:
            record["digest"] = "0" * 32
            text = json.dumps(content).encode()
    path.write_bytes(text)


def replace(path: Path, kind: str) -> None:
    """Put something else where a file or folder is, or would be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    KINDS[kind](path)


def shorten(store: Path, file: str, head: str, size: int) -> None:
    """Cut a shard, and let its marker say that this is how it was written."""
    content = (store / head / file).read_bytes()[:size]
    (store / head / file).write_bytes(content)
    entry = {"bytes": len(content), "checksum": checksum([content])}
    rewrite(store / head / "c.0.json", lambda record: record["files"].update({head: entry}))


def _stores() -> dict[str, Change]:
    def replacing(name: str, kind: str) -> Change:
        return lambda store: replace(store / name if name != "." else store, kind)

    def rewriting(file: str, change: Callable[[dict[str, Any]], object]) -> Change:
        return lambda store: rewrite(store / file, change)

    def rewording(file: str, change: Callable[[bytes], bytes]) -> Change:
        return lambda store: (store / file).write_bytes(change((store / file).read_bytes()))

    stores = {f"{kind}: {name}": replacing(name, kind) for name in FILES for kind in KINDS}
    stores |= {
        f"{text}: {name}": rewording(name, change)
        for name in FILES
        if name.endswith(".json")
        for text, change in TEXTS.items()
    }
    stores |= {f"{kind}: {name}": replacing(name, kind) for name in FOLDERS for kind in INSTEAD_OF_A_FOLDER}
    stores |= {f"claims: {claim}": rewriting("zarr.json", change) for claim, change in CLAIMS.items()}
    stores |= {f"array of {name}": rewriting("pooled/zarr.json", change) for name, change in ARRAYS.items()}
    stores |= {f"marker {name}": rewriting("pooled/c.0.json", change) for name, change in MARKERS.items()}
    stores["a shard without rows"] = lambda store: shorten(store, "c.0.0", "pooled", 0)
    stores["a shard of one byte"] = lambda store: shorten(store, "c.0.0", "pooled", 1)
    for name in ("a\nb", "\x1b[2J", "1" * 200, "x" * 200, "-rf", "\u0661", "\udcff", "=1+1", " ", "1.partial", "NUL"):
        stores[f"replaced/{name[:9]!a}"] = lambda store, name=name: shutil.copytree(
            store, store / "replaced" / name, ignore=lambda *_: ["replaced"]
        )
    return stores


STORES = _stores()
"""Every hostile store, by what is wrong with it."""
