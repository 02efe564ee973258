"""Files of features from elsewhere with something wrong in them, for the import and for the family `features`."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import torch

from tests.store.hostile import KINDS, replace

Make = Callable[[Path], object]
"""Changes or makes a file. There is one, with features of 120 rows that `aft features export` wrote."""

ROWS = 120
IDS = [f"r{row:04}" for row in range(ROWS)]
VALUES = np.random.default_rng(0).standard_normal((ROWS, 4)).astype(np.float32)
BIG = 10**12
DEEP = "[" * 100_000


class Ran:
    """Unpickling it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


def _mutated(seed: int) -> Make:
    """Some bytes of the file are others, repeated or gone."""

    def make(path: Path) -> None:
        random, content = Random(seed), bytearray(path.read_bytes())
        # Headers are small and claims are in them: half of the changes are near either end.
        for _ in range(random.choice([1, 1, 3, 20])):
            ends = [*range(min(400, len(content))), *range(max(0, len(content) - 400), len(content))]
            at = random.choice([random.choice(ends or [0]), random.randrange(len(content) or 1)])
            match random.randrange(4):
                case 0:
                    content[at : at + 1] = bytes([random.choice([0, 1, 127, 128, 255])])
                case 1:
                    content[at : at + 8] = random.choice([b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x7f"])
                case 2:
                    del content[at : at + random.randint(1, 40)]
                case 3:
                    content[at:at] = content[at : at + random.randint(1, 40)]
        path.write_bytes(content)

    return make


# npy


def _header(header: str | bytes, version: int = 1, length: int | None = None, body: bytes = VALUES.tobytes()) -> Make:
    def make(path: Path) -> None:
        path.with_name(f"{path.stem}.rows.npz").unlink(missing_ok=True)
        text = header.encode() if isinstance(header, str) else header
        size = len(text) if length is None else length
        path.write_bytes(
            b"\x93NUMPY" + bytes([version, 0]) + size.to_bytes(2 if version == 1 else 4, "little") + text + body
        )

    return make


def _described(shape: str = "(120, 4)", descr: str = "'<f4'", order: str = "False") -> Make:
    return _header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + "\n")


def _saved(array: Any, allow_pickle: bool = False) -> Make:
    def make(path: Path) -> None:
        path.with_name(f"{path.stem}.rows.npz").unlink(missing_ok=True)
        np.save(path, array, allow_pickle=allow_pickle)

    return make


def _sidecar(change: Callable[[dict[str, Any]], object], compressed: bool = False, sign: bool = True) -> Make:
    """The file with the ids, written anew."""

    def make(path: Path) -> None:
        ids = path.with_name(f"{path.stem}.rows.npz")
        with np.load(ids) as found:
            arrays: dict[str, Any] = dict(found)
        change(arrays)
        with ids.open("wb") as file:
            (np.savez_compressed if compressed else np.savez)(file, **arrays)

    return make


def _about(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    def changed(arrays: dict[str, Any]) -> None:
        about = json.loads(arrays["about"].tobytes())
        change(about)
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)

    return changed


def _zipped(members: dict[str, bytes], **options: Any) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path.with_name(f"{path.stem}.rows.npz"), "w", **options) as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return make


def _patched_zip(old: bytes, new: bytes) -> Make:
    def make(path: Path) -> None:
        ids = path.with_name(f"{path.stem}.rows.npz")
        ids.write_bytes(ids.read_bytes().replace(old, new))

    return make


NPY: dict[str, Make] = {
    **{
        f"shape {shape}": _described(shape)
        for shape in (
            "(1000000000000, 4)",
            f"({10**30}, 4)",
            "(-5, 4)",
            "(120, -4)",
            "(0, 4)",
            "(120, 0)",
            "()",
            "(480,)",
            "(2, 60, 4)",
            f"({2**62}, 4)",
            f"({2**32}, {2**32})",
            "('a', 4)",
            "(120.0, 4)",
            "(True, 4)",
            "120",
            "[120, 4]",
            f"({'2,' * 33})",
            f"({'1,' * 70})",
            f"(120, {1 << 34})",
            "None",
            "(119, 4)",
            "(121, 4)",
        )
    },
    **{
        f"dtype {descr}"[:40]: _described(descr=descr)
        for descr in (
            "'>f4'",
            "'<f2'",
            "'<f8'",
            "'<f16'",
            "'<g'",
            "'|O'",
            "'<c8'",
            "'<U4'",
            "'|S16'",
            "'|V16'",
            "'<M8[ns]'",
            "'<i4'",
            "'|b1'",
            "'<f4,<f4'",
            "[('a', '<f4')]",
            "[('a', '<f4', (10**9,))]",
            "''",
            "'<f999999999'",
            "'<U999999999'",
            "'f4' * 9",
            "None",
            "5",
            "['<f4']",
            "[('a\\n', '|O')]",
            "'(1000000000,)f4'",
        )
    },
    "columns first": _described(order="True"),
    "order of a text": _described(order="'x'"),
    "a header that is code": _header("__import__('os').mkdir('pwned')".ljust(117) + "\n"),
    "a header of a call": _header(
        "{'descr': __import__('os').mkdir('pwned'), 'fortran_order': False, 'shape': (1,)}\n"
    ),
    "a deep header": _header(("(" * 9_000 + ")" * 9_000) + "\n"),
    "a deeper header": _header("-" * 60_000 + "1\n"),
    "a header of 100 MiB": _header("{" + " " * (100 << 20) + "}\n", version=2),
    "a header that claims 4 GiB": _header("{}\n", version=2, length=2**32 - 1),
    "no keys in the header": _header("{}".ljust(117) + "\n"),
    "another key in the header": _header(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (120, 4), 'x': 1}".ljust(117) + "\n"
    ),
    "a header not in UTF-8": _header(b"{'descr': '\xff\xfe'}\n", version=3),
    "a header with NUL": _header(b"{'descr': '<f4\x00', 'fortran_order': False, 'shape': (120, 4)}\n"),
    "version 9": _header("{}\n", version=9),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "more behind": lambda path: path.write_bytes(path.read_bytes() + bytes(1 << 20)),
    "magic alone": lambda path: path.write_bytes(b"\x93NUMPY"),
    "objects": _saved(np.array([[Ran()]], object), allow_pickle=True),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Ran())),
    "an npz": lambda path: np.savez(path.open("wb"), a=VALUES),
    "NaN": _saved(np.full((ROWS, 4), np.nan, np.float32)),
    "infinity": _saved(np.full((ROWS, 4), -np.inf, np.float16)),
    "too large for float32": _saved(np.full((ROWS, 4), 1e300)),
    "one number a row": _saved(np.arange(120.0)),
    **{
        f"ids: {what}": _sidecar(change)
        for what, change in {
            "no bytes": lambda arrays: arrays.pop("id_bytes"),
            "no ends": lambda arrays: arrays.pop("id_ends"),
            "no digests": lambda arrays: arrays.pop("digests"),
            "no description": lambda arrays: arrays.pop("about"),
            "objects": lambda arrays: arrays.update(id_bytes=np.array([Ran()], object)),
            "ends backwards": lambda arrays: arrays.update(id_ends=arrays["id_ends"][::-1].copy()),
            "ends below zero": lambda arrays: arrays.update(id_ends=-arrays["id_ends"]),
            "ends of 2^62": lambda arrays: arrays.update(id_ends=arrays["id_ends"] + 2**62),
            "ends of floats": lambda arrays: arrays.update(id_ends=arrays["id_ends"] * 0.5),
            "ends of NaN": lambda arrays: arrays.update(id_ends=arrays["id_ends"] * np.nan),
            "ends in a table": lambda arrays: arrays.update(id_ends=arrays["id_ends"].reshape(60, 2)),
            "an end alone": lambda arrays: arrays.update(id_ends=np.array(5)),
            "fewer ends": lambda arrays: arrays.update(id_ends=arrays["id_ends"][:50]),
            "no ids": lambda arrays: arrays.update(id_ends=arrays["id_ends"][:0], id_bytes=arrays["id_bytes"][:0]),
            "the same twice": lambda arrays: arrays["id_bytes"].__setitem__(slice(5, 10), arrays["id_bytes"][:5]),
            "not UTF-8": lambda arrays: arrays["id_bytes"].__setitem__(0, 255),
            "escapes": lambda arrays: arrays["id_bytes"].__setitem__(slice(0, 4), list(b"\x1b[2J")),
            "bytes of int64": lambda arrays: arrays.update(id_bytes=arrays["id_bytes"].astype(np.int64)),
            "bytes of texts": lambda arrays: arrays.update(id_bytes=np.array(IDS)),
            "digests of another shape": lambda arrays: arrays.update(digests=arrays["digests"][:, :8]),
            "digests of floats": lambda arrays: arrays.update(digests=arrays["digests"] * 1.0),
            "digests of objects": lambda arrays: arrays.update(digests=np.array([Ran()] * ROWS, object)),
            "fewer digests": lambda arrays: arrays.update(digests=arrays["digests"][:5]),
            "a description of floats": lambda arrays: arrays.update(about=np.ones(9)),
            "a description that is no JSON": lambda arrays: arrays.update(about=np.frombuffer(b"{", np.uint8)),
            "a deep description": lambda arrays: arrays.update(about=np.frombuffer(DEEP.encode(), np.uint8)),
        }.items()
    },
    "ids: compressed": _sidecar(lambda arrays: None, compressed=True),
    "ids: a bomb": _sidecar(lambda arrays: arrays.update(id_bytes=np.zeros(1 << 28, np.uint8)), compressed=True),
    "ids: another file in the archive": _sidecar(lambda arrays: arrays.update(other=VALUES)),
    "ids: names that lead out": _zipped({"../../pwned.npy": b"x", "/etc/pwned": b"x"}),
    "ids: an empty archive": _zipped({}),
    "ids: no arrays in the archive": _zipped({"id_bytes.npy": b"x", "id_ends.npy": b"y", "digests.npy": b"z"}),
    "ids: arrays that claim much": _zipped(
        {
            f"{name}.npy": b"\x93NUMPY\x01\x00v\x00"
            + f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({BIG},), }}".ljust(117).encode()
            + b"\n"
            for name in ("id_bytes", "id_ends", "digests", "about")
        }
    ),
    "ids: an archive in bzip2": _zipped({"id_bytes.npy": bytes(99)}, compression=zipfile.ZIP_BZIP2),
    "ids: an unknown method": _patched_zip(b"PK\x03\x04\x2d\0\0\0\0\0", b"PK\x03\x04\x2d\0\0\0\x63\0"),
    "ids: encrypted": _patched_zip(b"PK\x01\x02\x2d\x03\x2d\0\0\0", b"PK\x01\x02\x2d\x03\x2d\0\1\0"),
    "ids: checksums of others": _patched_zip(IDS[7].encode(), b"r9999"),
    **{
        f"ids: {kind}": lambda path, kind=kind: replace(path.with_name(f"{path.stem}.rows.npz"), kind) for kind in KINDS
    },
}


# What an exported file says of itself, in every format


ABOUTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "dtype float64": lambda about: about.update(dtype="float64"),
    "dtype int8": lambda about: about.update(dtype="int8"),
    "dtype bfloat16": lambda about: about.update(dtype="bfloat16"),
    "dtype of a list": lambda about: about.update(dtype=["float32"]),
    "no dtype": lambda about: about.pop("dtype"),
    "shards of no rows": lambda about: about.update(shard_rows=0),
    "shards of -1 rows": lambda about: about.update(shard_rows=-1),
    "shards of True": lambda about: about.update(shard_rows=True),
    "shards of 10^30 rows": lambda about: about.update(shard_rows=10**30),
    "shards of a float": lambda about: about.update(shard_rows=15.0),
    "shards of one row": lambda about: about.update(shard_rows=1),
    "a head that leads out": lambda about: about.update(head="../../pwned"),
    "a head of two lines": lambda about: about.update(head="a\nb\x1b[2J"),
    "a head without a name": lambda about: about.update(head=""),
    "a head called rows": lambda about: about.update(head="rows"),
    "a head called locks": lambda about: about.update(head="locks"),
    "a head of a long name": lambda about: about.update(head="a" * 10_000),
    "a head of a number": lambda about: about.update(head=5),
    "a view of a text": lambda about: about.update(view="flip"),
    "a view of anything": lambda about: about.update(view={"a\x1b[2J": [None, 1e308, "\u2028"]}),
    "a view of NaN": lambda about: about.update(view={"a": float("nan")}),
    "a deep view": lambda about: about.update(
        view=json.loads("[" * 400 + "]" * 400) and {"a": json.loads("[" * 400 + "]" * 400)}
    ),
    "a recipe of a list": lambda about: about.update(recipe=[]),
    "an empty recipe": lambda about: about.update(recipe={}),
    "a recipe of infinity": lambda about: about.update(recipe={"a": float("inf")}),
    "a recipe of half a character": lambda about: about.update(recipe={"\ud800": 1}),
    "a recipe of 10^400": lambda about: about.update(recipe={"a": 10**400}),
    "a recipe of 10^6 letters": lambda about: about.update(recipe={"a": "x" * 10**6}),
    "a dataset of a number": lambda about: about.update(dataset=5),
    "a dataset of another": lambda about: about.update(dataset="d"),
    "created by nobody": lambda about: about.update(created_by=None),
    "created by a list": lambda about: about.update(created_by=["x"]),
    "another key": lambda about: about.update(pwned=1),
    "parts of a list": lambda about: about.update(parts=[1]),
    "a shape of text": lambda about: about.update(shape="16"),
    "a shape of others": lambda about: about.update(shape=[4, 4]),
    "a shape of -1": lambda about: about.update(shape=[-1]),
    "a shape of 10^30": lambda about: about.update(shape=[10**30]),
    "a shape of floats": lambda about: about.update(shape=[16.0]),
    "a shape of nothing": lambda about: about.update(shape=[]),
    "an array of a number": lambda about: about.update(array=5),
}


def _reworded(format: str, change: Callable[[dict[str, Any]], object]) -> Make:
    """The file says something else of itself."""

    def make(path: Path) -> None:
        def text(old: str | bytes) -> str:
            about = json.loads(old)
            change(about)
            return json.dumps(about)

        match format:
            case "npy":
                _sidecar(_about(change))(path)
            case "h5":
                with h5py.File(path, "r+") as file:
                    file.attrs["feature_store"] = text(file.attrs["feature_store"])
            case "pt":
                found = torch.load(path, weights_only=True)
                torch.save(found | {"about": text(found["about"])}, path)
            case "safetensors":
                with safetensors.safe_open(path, framework="numpy") as file:
                    metadata, tensors = file.metadata(), safetensors.numpy.load_file(path)
                safetensors.numpy.save_file(tensors, path, {"feature_store": text(metadata["feature_store"])})
            case "parquet":
                table = pq.read_table(path)
                metadata = {b"feature_store": text(table.schema.metadata[b"feature_store"])}
                pq.write_table(table.replace_schema_metadata(metadata), path)

    return make


# HDF5


def _h5(fill: Callable[[h5py.File], object], features: bool = True) -> Make:
    def make(path: Path) -> None:
        path.unlink()
        with h5py.File(path, "w") as file:
            if features:
                file["features"] = VALUES
                file["ids"] = IDS
            fill(file)

    return make


def _set(name: str, values: Any) -> Make:
    def fill(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = values

    return _h5(fill)


def _elsewhere(kind: str, name: str) -> Make:
    def fill(file: h5py.File) -> None:
        secret = Path(file.filename).with_name("secret.h5")
        values = VALUES if name == "features" else np.array([f"secret{row}" for row in range(ROWS)], "S9")
        with h5py.File(secret, "w") as other:
            other[name] = values
        del file[name]
        match kind:
            case "link":
                file[name] = h5py.ExternalLink(secret.name, name)
            case "link in a group":
                file["inside"] = h5py.ExternalLink(secret.name, "/")
                file[name] = h5py.SoftLink(f"/inside/{name}")
            case "virtual":
                layout = h5py.VirtualLayout(values.shape, values.dtype)
                layout[...] = h5py.VirtualSource(secret.name, name, values.shape)
                file.create_virtual_dataset(name, layout)
            case "storage":
                file.create_dataset(name, values.shape, values.dtype, external=[(str(secret), 0, values.nbytes)])
            case "storage of a device":
                file.create_dataset(name, values.shape, values.dtype, external=[("/dev/zero", 0, values.nbytes)])

    return _h5(fill)


def _created(name: str, *arguments: Any, **options: Any) -> Make:
    def fill(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file.create_dataset(name, *arguments, **options)

    return _h5(fill)


def _cycle(file: h5py.File) -> None:
    file["a/b"] = file["/"]
    file["a/c"] = h5py.SoftLink("/a/b/a/c")


H5: dict[str, Make] = {
    **{
        f"{name}: {kind}": _elsewhere(kind, name)
        for name in ("features", "ids")
        for kind in ("link", "link in a group", "virtual", "storage", "storage of a device")
    },
    **{
        f"{name}: a link to itself": _h5(
            lambda file, name=name: (file.pop(name, None), file.__setitem__(name, h5py.SoftLink(f"/{name}")))
        )
        for name in ("features", "ids", "digests", "coords")
    },
    **{
        f"{name}: {what}": _set(name, values)
        for name in ("features", "ids", "coords", "digests")
        for what, values in {
            "a number": 5,
            "integers": np.arange(ROWS),
            "pairs of integers": np.zeros((ROWS, 2), int),
            "floats": np.arange(ROWS) * 0.5,
            "NaN": np.full((ROWS, 2), np.nan),
            "complex numbers": np.zeros((ROWS, 4), np.complex64),
            "booleans": np.zeros((ROWS, 4), bool),
            "no UTF-8": np.array([b"\xff\xfe"] * ROWS, "S2"),
            "escapes": np.array([b"\x1b[2J\n"] * ROWS),
            "fields": np.zeros(ROWS, [("a", "i4"), ("b", "O", ())][:1]),
            "opaque bytes": np.zeros(ROWS, "V7"),
            "nothing": np.zeros((0, 4), np.float32),
            "empty": h5py.Empty("f4"),
            "one row": np.zeros((1, 1, 1), np.float32),
            "a type": np.dtype("f4"),
            "big-endian": VALUES.astype(">f4"),
            "long doubles": VALUES.astype(np.longdouble),
            "many dimensions": np.zeros((ROWS, *[1] * 31), np.float32),
        }.items()
    },
    **{
        f"{name}: {what}": _created(name, *arguments, **options)
        for name in ("features", "ids", "coords", "digests")
        for what, (arguments, options) in {
            "10^12 rows, none written": (((BIG, 4), "f4"), {"chunks": (100, 4)}),
            "10^12 rows, zipped": (((BIG, 4), "f4"), {"chunks": (100, 4), "compression": "gzip"}),
            "a row of 64 GiB": (((1, 1 << 34), "f4"), {"chunks": (1, 1024)}),
            "a chunk of 4 GB": (((ROWS, 8 << 20), "f4"), {"chunks": (100, 1 << 20), "compression": "gzip"}),
            "lists": (((ROWS,), h5py.vlen_dtype(np.float32)), {}),
            "references": (((ROWS,), h5py.ref_dtype), {}),
            "an enumeration": (((ROWS,), h5py.enum_dtype({"a": 1, "b": 2})), {}),
            "texts of 1 GB": (((ROWS,), "S1000000000"), {"chunks": (1,)}),
            "texts of 16 bytes, zipped, 10^9": (((10**9,), "S16"), {"chunks": (10**6,), "compression": "gzip"}),
            "unlimited": (((ROWS, 4), "f4"), {"maxshape": (None, None), "data": VALUES}),
            "with checksums": (((ROWS, 4), "f4"), {"fletcher32": True, "data": VALUES}),
            "shuffled": (((ROWS, 4), "f4"), {"shuffle": True, "compression": "lzf", "data": VALUES}),
            "rounded": (((ROWS, 4), "f4"), {"scaleoffset": 2, "data": VALUES}),
        }.items()
    },
    "features: a group": _h5(lambda file: (file.pop("features"), file.create_group("features"))),
    "ids: a group": _h5(lambda file: (file.pop("ids"), file.create_group("ids"))),
    "ids: fewer": _set("ids", IDS[:5]),
    "ids: twice": _set("ids", IDS[:60] * 2),
    "ids: in a table": _set("ids", np.array(IDS, "S5").reshape(60, 2)),
    "ids: with NUL": _set("ids", np.array([f"a\0{n}" for n in range(ROWS)], object).astype("S9")),
    "ids: empty texts": _set("ids", [""] * ROWS),
    "no features": _h5(lambda file: file.create_dataset("other", data=VALUES), features=False),
    "names of others": _h5(lambda file: file.create_dataset("a\x1b[2J\nb", data=VALUES), features=False),
    "10,000 names of others": _h5(lambda file: [file.create_group(f"g{n}") for n in range(10_000)], features=False),
    "names not in UTF-8": _h5(lambda file: h5py.h5g.create(file.id, b"\xff\xfe"), features=False),
    "a circle of groups": _h5(_cycle),
    **{
        f"description: {what}": _h5(lambda file, value=value: file.attrs.__setitem__("feature_store", value))
        for what, value in {
            "a number": 5,
            "nothing": h5py.Empty("S1"),
            "an empty text": "",
            "a list": [1, 2],
            "deep": DEEP[:60_000],
            "no JSON": "{",
            "a list in JSON": "[]",
            "null": "null",
            "a text in JSON": '"x"',
            "bytes": np.bytes_(b"{}"),
            "no fields": "{}",
            "texts": np.array(["{}", "{}"], object).astype("S2"),
            "half a character": '{"dataset": "\\ud800"}',
            "a key twice": '{"dataset": "a", "dataset": 5}',
            "NaN": '{"recipe": {"a": NaN}}',
            "no UTF-8": np.bytes_(b"\xff"),
        }.items()
    },
    "old format": lambda path: h5py.File(path, "w", libver="earliest").close(),
    "new format": lambda path: h5py.File(path, "w", libver="latest").close(),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "bytes before": lambda path: path.write_bytes(bytes(512) + path.read_bytes()),
    "magic alone": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"),
    "open for writing": lambda path: path.write_bytes(path.read_bytes()[:11] + b"\x03" + path.read_bytes()[12:]),
}


# torch


def _pt(value: Any, **options: Any) -> Make:
    return lambda path: torch.save(value() if callable(value) else value, path, **options)


def _exported(change: Callable[[dict[str, Any]], object]) -> Make:
    def make(path: Path) -> None:
        found = torch.load(path, weights_only=True)
        change(found)
        torch.save(found, path)

    return make


def _archive(change: Callable[[dict[str, bytes]], object], compression: int = zipfile.ZIP_STORED) -> Make:
    """The archive that torch writes, with other members."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        change(members)
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return make


def _member(members: dict[str, bytes], end: str) -> str:
    return next(name for name in members if name.endswith(end))


def _pickled(pickled: bytes) -> Make:
    return _archive(lambda members: members.update({_member(members, "data.pkl"): pickled}))


T = torch.from_numpy(VALUES)

PT: dict[str, Make] = {
    **{
        f"train: {what}": _pt(lambda value=value: {"train": value() if callable(value) else value})
        for what, value in {
            "nothing": None,
            "a list": [1.0],
            "a number": torch.tensor(1.0),
            "integers": torch.zeros(4, 4, dtype=torch.int64),
            "booleans": torch.zeros(4, 4, dtype=torch.bool),
            "complex numbers": torch.zeros(4, 4, dtype=torch.complex64),
            "float8": torch.zeros(4, 4).to(torch.float8_e4m3fn),
            "float64": T.double(),
            "bfloat16": T.bfloat16(),
            "sparse": lambda: T.to_sparse(),
            "compressed rows": lambda: T.to_sparse_csr(),
            "meta": lambda: T.to("meta"),
            "quantised": lambda: torch.quantize_per_tensor(T, 0.1, 0, torch.qint8),
            "no rows": T[:0],
            "no columns": T[:, :0],
            "a view": lambda: torch.zeros(1).expand(10**9, 4),
            "a view of strides": lambda: T.as_strided((100, 100), (1, 1)),
            "a transposed view": lambda: T.t(),
            "a parameter": lambda: torch.nn.Parameter(T),
            "NaN": lambda: T * float("nan"),
            "too large": lambda: T.double() * 1e300,
            "conjugated": lambda: torch.zeros(4, 4, dtype=torch.complex64).conj(),
            "a row": T[0],
            "nested": lambda: torch.nested.nested_tensor([T[:3], T[:5]]),
            "many dimensions": lambda: T.reshape(120, *[1] * 40, 4),
            "texts": ["a"],
            "a table": {"a": T},
            "numpy": VALUES,
        }.items()
    },
    **{
        what: _pt(value)
        for what, value in {
            "a tensor": T,
            "a list of tensors": [T, T],
            "nothing": None,
            "an empty table": {},
            "names of others": {"features": T},
            "test alone": {"test": T},
            "two types": {"train": T, "test": T.half()},
            "two shapes": {"train": T, "test": T[:, :2]},
            "keys that are no texts": {5: T, "train": T},
            "a deep list": lambda: _deep_list(150),
            "code": lambda: {"train": T, "x": Ran()},
            "a module": lambda: torch.nn.Linear(2, 2),
            "ids without a description": {"train": T, "ids": 5},
        }.items()
    },
    "the old format": lambda path: torch.save({"train": T}, path, _use_new_zipfile_serialization=False),
    "the old format with code": lambda path: torch.save(
        {"train": T, "x": Ran()}, path, _use_new_zipfile_serialization=False
    ),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Ran())),
    "a deep pickle": lambda path: path.write_bytes(b"\x80\x02" + b"]" * 10**6 + b"a" * 10**6 + b"."),
    "a pickle of a huge text": lambda path: path.write_bytes(b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"."),
    "a pickle that repeats": _pickled(b"\x80\x02]q\x00" + b"(h\x00" * 10 + b"e" * 10 + b"."),
    "a pickle of a huge memo": _pickled(b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b"."),
    "a pickle of a huge number": _pickled(b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"."),
    "a pickle of a long integer": _pickled(b"\x80\x02I" + b"9" * 10**6 + b"\n."),
    "a pickle of nothing": _pickled(b""),
    "a pickle of a tuple of itself": _pickled(b"\x80\x02" + b"(" * 10**5 + b"t" * 10**5 + b"."),
    "TorchScript": lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path)),
    "an archive that is compressed": _archive(lambda members: None, zipfile.ZIP_DEFLATED),
    "an archive without values": _archive(lambda members: members.pop(_member(members, "data/0"))),
    "an archive of fewer values": _archive(lambda members: members.update({_member(members, "data/0"): b"x"})),
    "an archive of more values": _archive(lambda members: members.update({_member(members, "data/0"): bytes(10**6)})),
    "an archive without a pickle": _archive(lambda members: members.pop(_member(members, "data.pkl"))),
    "an archive of another byte order": _archive(
        lambda members: members.update({_member(members, "byteorder"): b"big"})
    ),
    "an archive of no byte order": _archive(lambda members: members.update({_member(members, "byteorder"): b"\xff"})),
    "an archive of version 10^9": _archive(lambda members: members.update({_member(members, "version"): b"9" * 9})),
    "an archive that leads out": _archive(lambda members: members.update({"../../pwned": b"x"})),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    **{
        f"exported, {what}": _exported(change)
        for what, change in {
            "no ids": lambda found: found.pop("ids"),
            "no digests": lambda found: found.pop("digests"),
            "ids of numbers": lambda found: found.update(ids=list(range(ROWS))),
            "ids of a number": lambda found: found.update(ids=5),
            "ids of a text": lambda found: found.update(ids="r" * ROWS),
            "ids of a tensor": lambda found: found.update(ids=torch.arange(ROWS)),
            "ids of nothing": lambda found: found.update(ids=None),
            "fewer ids": lambda found: found.update(ids=found["ids"][:5]),
            "ids twice": lambda found: found.update(ids=found["ids"][:60] * 2),
            "ids of half characters": lambda found: found.update(ids=["\ud800"] * ROWS),
            "ids of bytes": lambda found: found.update(ids=[b"a"] * ROWS),
            "digests of a list": lambda found: found.update(digests=[[0] * 16] * ROWS),
            "digests of floats": lambda found: found.update(digests=torch.zeros(ROWS, 16)),
            "fewer digests": lambda found: found.update(digests=found["digests"][:5]),
            "digests of nothing": lambda found: found.update(digests=None),
            "sparse digests": lambda found: found.update(digests=found["digests"].to_sparse()),
            "a description of a number": lambda found: found.update(about=5),
            "a description of bytes": lambda found: found.update(about=b"{}"),
            "a description of a table": lambda found: found.update(about={}),
            "a deep description": lambda found: found.update(about=DEEP),
            "a description of nothing": lambda found: found.update(about=None),
            "an empty description": lambda found: found.update(about=""),
            "no train": lambda found: found.pop("train"),
            "no test": lambda found: found.pop("test"),
        }.items()
    },
}


def _deep_list(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


# safetensors


def _safe(header: Any, body: bytes = VALUES.tobytes(), length: int | None = None) -> Make:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)


def _tensor(
    dtype: Any = "F32", shape: Any = (ROWS, 4), offsets: Any = (0, VALUES.nbytes), name: str = "features"
) -> Make:
    return _safe({name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}})


def _header_twice() -> bytes:
    """Two tensors of one name."""
    shapes = ("[480]", "[120, 4]")
    tensors = [f'"features": {{"dtype": "F32", "shape": {shape}, "data_offsets": [0, 1920]}}' for shape in shapes]
    return f"{{{', '.join(tensors)}}}".encode()


def _resaved(change: Callable[[dict[str, Any]], object]) -> Make:
    def make(path: Path) -> None:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata, tensors = file.metadata(), safetensors.numpy.load_file(path)
        change(tensors)
        safetensors.numpy.save_file(tensors, path, metadata)

    return make


SAFETENSORS: dict[str, Make] = {
    **{
        f"dtype {dtype!a}": _tensor(dtype)
        for dtype in (
            "F16",
            "BF16",
            "F64",
            "F8_E4M3",
            "F8_E8M0",
            "F4",
            "I64",
            "U8",
            "BOOL",
            "C64",
            "X",
            "",
            None,
            5,
            "f32",
            [],
        )
    },
    **{
        f"shape {str(shape)[:30]}": _tensor(shape=shape)
        for shape in (
            [],
            [480],
            [0, 4],
            [120, 0],
            [-120, -4],
            [120, 4, 1],
            [BIG, 4],
            [2**63, 4],
            [2**64, 4],
            [10**30, 4],
            [120.0, 4],
            ["120", 4],
            "120",
            None,
            [[120], 4],
            [True, 480],
            [2**32, 2**32],
            [1] * 70 + [480],
            [1, 480],
            [120, 1 << 34],
            [119, 4],
        )
    },
    **{
        f"at {offsets}": _tensor(offsets=offsets)
        for offsets in (
            [0],
            [],
            [0, 1],
            [4, 1924],
            [1920, 0],
            [-1, 1919],
            [0, 2**63],
            [0, 2**64],
            [0, 10**30],
            [0, 1920.0],
            None,
            ["0", "1920"],
            [0, 1920, 1920],
            [2**64 - 1920, 0],
        )
    },
    **{
        f"header of {what}": _safe(header, length=length)
        for what, header, length in (
            ("2^63 bytes", {}, 2**63),
            ("2^40 bytes", {}, 2**40),
            ("no bytes", b"", 0),
            ("a list", [], None),
            ("nothing", {}, None),
            ("no JSON", b"{", None),
            ("null", b"null", None),
            ("deep lists", DEEP.encode(), None),
            ("other bytes", b"\xff\xfe", None),
            ("a byte-order mark", b"\xef\xbb\xbf{}", None),
            ("metadata alone", {"__metadata__": {"a": "b"}}, None),
            ("metadata of numbers", {"__metadata__": {"a": 5}}, None),
            ("metadata of a list", {"__metadata__": []}, None),
            ("a tensor of a list", {"features": []}, None),
            ("a tensor of nothing", {"features": {}}, None),
            (
                "a tensor twice",
                _header_twice(),
                None,
            ),
            (
                "a key twice",
                b'{"features": {"dtype": "F16", "dtype": "F32", "shape": [120, 4], "data_offsets": [0, 1920]}}',
                None,
            ),
            (
                "10^5 tensors",
                {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(10**5)},
                None,
            ),
            ("names of escapes", {"\x1b[2J\n": {"dtype": "I64", "shape": [240], "data_offsets": [0, 1920]}}, None),
            (
                "a name of 10^6 letters",
                {"x" * 10**6: {"dtype": "I64", "shape": [240], "data_offsets": [0, 1920]}},
                None,
            ),
            (
                "tensors that overlap",
                {name: {"dtype": "F32", "shape": [120, 4], "data_offsets": [0, 1920]} for name in ("features", "b")},
                None,
            ),
            ("NaN", b'{"features": {"dtype": "F32", "shape": [NaN, 4], "data_offsets": [0, 1920]}}', None),
            ("UTF-16", '{"a": 1}'.encode("utf-16"), None),
        )
    },
    "another name": _tensor(name="embedding"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "more behind": lambda path: path.write_bytes(path.read_bytes() + bytes(1 << 20)),
    "a length alone": lambda path: path.write_bytes(bytes(8)),
    "seven bytes": lambda path: path.write_bytes(bytes(7)),
    "too large for float32": _safe(
        {"features": {"dtype": "F32", "shape": [120, 4], "data_offsets": [0, 1920]}}, b"\xff\xff\x7f\x7f" * 480
    ),
    **{
        f"exported, {what}": _resaved(change)
        for what, change in {
            **{
                f"no {name}": lambda found, name=name: found.pop(name)
                for name in ("features", "id_bytes", "id_ends", "digests")
            },
            "ends below zero": lambda found: found.update(id_ends=-found["id_ends"]),
            "ends of 2^62": lambda found: found.update(id_ends=found["id_ends"] + 2**62),
            "ends of floats": lambda found: found.update(id_ends=found["id_ends"] * 0.5),
            "ends of int32": lambda found: found.update(id_ends=found["id_ends"].astype(np.int32)),
            "an end alone": lambda found: found.update(id_ends=np.array(5)),
            "bytes of floats": lambda found: found.update(id_bytes=found["id_bytes"].astype(np.float32)),
            "bytes in a table": lambda found: found.update(id_bytes=found["id_bytes"].reshape(-1, 5)),
            "digests of int64": lambda found: found.update(digests=found["digests"].astype(np.int64)),
            "digests in a row": lambda found: found.update(digests=found["digests"].reshape(-1)),
            "fewer digests": lambda found: found.update(digests=found["digests"][:5]),
            "ids not in UTF-8": lambda found: found.update(id_bytes=found["id_bytes"] | 128),
            "ids twice": lambda found: found.update(id_bytes=np.tile(found["id_bytes"][:5], ROWS)),
        }.items()
    },
}


# Parquet


def _table(columns: dict[str, Any], metadata: dict[str, str] | None = None, **options: Any) -> Make:
    return lambda path: pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, **options)


def _lists(kind: pa.DataType, values: Any = None) -> pa.Array:
    return pa.array(VALUES.tolist() if values is None else values, kind)


F = pa.float32()
COLUMN = {"features": _lists(pa.list_(F, 4))}

PARQUET: dict[str, Make] = {
    **{
        f"features: {what}": _table({"features": column, "id": IDS[: len(column)]})
        for what, column in {
            "lists": _lists(pa.list_(F)),
            "large lists": _lists(pa.large_list(F)),
            "float64": _lists(pa.list_(pa.float64())),
            "float16": _lists(pa.list_(pa.float16(), 4), VALUES.astype(np.float16).tolist()),
            "integers": _lists(pa.list_(pa.int32()), [[1, 2]] * ROWS),
            "texts": _lists(pa.list_(pa.string()), [["a"]] * ROWS),
            "numbers": pa.array(np.arange(120.0)),
            "texts alone": pa.array(IDS),
            "nothing": pa.nulls(ROWS),
            "a missing row": _lists(pa.list_(F), [None, *VALUES[1:].tolist()]),
            "a missing number": _lists(pa.list_(F), [[None, 1.0]] * ROWS),
            "a missing row of a size": _lists(pa.list_(F, 4), [None, *VALUES[1:].tolist()]),
            "a shorter row": _lists(pa.list_(F), [[1.0], *VALUES[1:].tolist()]),
            "empty rows": _lists(pa.list_(F), [[]] * ROWS),
            "rows of no size": _lists(pa.list_(F, 0), [[]] * ROWS),
            "no rows": _lists(pa.list_(F), []),
            "lists in lists": _lists(pa.list_(pa.list_(F)), [[[1.0], [2.0]]] * ROWS),
            "a table in a column": pa.array([{"a": 1.0}] * ROWS),
            "a map": pa.array([[("a", 1.0)]] * ROWS, pa.map_(pa.string(), F)),
            "NaN": _lists(pa.list_(F), [[float("nan")] * 4] * ROWS),
            "booleans": _lists(pa.list_(pa.bool_()), [[True]] * ROWS),
            "decimals": _lists(pa.list_(pa.decimal128(5, 2)), [[1, 2]] * ROWS),
            "dates": pa.array([0] * ROWS, pa.timestamp("ns")),
            "bytes": pa.array([b"abcd"] * ROWS),
            "too large for float32": _lists(pa.list_(pa.float64()), [[1e300]] * ROWS),
        }.items()
    },
    **{
        f"ids: {what}": _table(COLUMN | {"id": column})
        for what, column in {
            "integers": pa.array(range(ROWS)),
            "floats": pa.array(np.arange(120.0)),
            "nothing": pa.nulls(ROWS),
            "twice": pa.array(IDS[:60] * 2),
            "bytes": pa.array([b"\xff%d" % n for n in range(ROWS)]),
            "a missing one": pa.array([None, *IDS[1:]]),
            "lists": pa.array([["a"]] * ROWS),
            "tables": pa.array([{"a": 1}] * ROWS),
            "dates": pa.array(range(ROWS), pa.timestamp("ns")),
            "booleans": pa.array([True, False] * 60),
            "decimals": pa.array(range(ROWS), pa.decimal128(5)),
            "escapes": pa.array(["\x1b[2J", *IDS[1:]]),
            "categories": pa.array(IDS).dictionary_encode(),
            "views": pa.array(IDS, pa.string_view()),
            "huge integers": pa.array([2**63 - 1 - n for n in range(ROWS)], pa.uint64()),
            "10^7 letters": pa.array(["x" * 10**7, *IDS[1:]]),
            "formulas": pa.array(["=1+1", *IDS[1:]]),
        }.items()
    },
    "no features": _table({"text": ["a"]}),
    "names of escapes": _table({"\x1b[2J\n": ["a"]}),
    "10,000 columns": _table({f"c{n}": [1] for n in range(10_000)}),
    "no columns": lambda path: pq.write_table(pa.table({}), path),
    "a name twice": lambda path: pq.write_table(
        pa.table([COLUMN["features"], COLUMN["features"]], names=["features", "features"]), path
    ),
    "a row group a row": _table(COLUMN, row_group_size=1),
    "a bomb": _table({"features": _lists(pa.list_(F, 1), [[0.0]] * 10**6)}, compression="zstd"),
    "a bomb of ids": _table(
        {"features": _lists(pa.list_(F, 1), [[0.0]] * 10_000), "id": ["x" * 10_000] * 10_000}, compression="zstd"
    ),
    **{
        f"in {name}": _table(COLUMN | {"id": IDS}, compression=name)
        for name in ("snappy", "gzip", "brotli", "lz4", "zstd")
    },
    **{
        f"description: {what}": _table(COLUMN | {"id": IDS}, {"feature_store": text})
        for what, text in {
            "no JSON": "{",
            "nothing": "",
            "null": "null",
            "deep": DEEP,
            "no fields": "{}",
            "a list": "[]",
            "a text": '"x"',
        }.items()
    },
    "description: no digests": lambda path: pq.write_table(pq.read_table(path).drop_columns(["digest"]), path),
    "description: no ids": lambda path: pq.write_table(pq.read_table(path).drop_columns(["id"]), path),
    "description: short digests": lambda path: pq.write_table(
        _replaced(pq.read_table(path), "digest", pa.array([b"x"] * ROWS)), path
    ),
    "description: digests of numbers": lambda path: pq.write_table(
        _replaced(pq.read_table(path), "digest", pa.array(range(ROWS))), path
    ),
    "description: a missing digest": lambda path: pq.write_table(
        _replaced(pq.read_table(path), "digest", pa.array([None] * ROWS, pa.binary())), path
    ),
    "types of nobody": _table(COLUMN, {"ARROW:schema": "AAAA"}),
    "encrypted": lambda path: path.write_bytes(b"PARE" + bytes(100) + b"PARE"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "magic alone": lambda path: path.write_bytes(b"PAR1PAR1"),
    "a footer of 2 GiB": lambda path: path.write_bytes(path.read_bytes()[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1"),
}


def _replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


FORMATS: dict[str, dict[str, Make]] = {
    format: {
        **made,
        **{f"says: {what}": _reworded(format, change) for what, change in ABOUTS.items()},
        **{kind: lambda path, kind=kind: replace(path, kind) for kind in KINDS},
        **{f"mutated {seed}": _mutated(seed) for seed in range(40)},
    }
    for format, made in {"npy": NPY, "h5": H5, "pt": PT, "safetensors": SAFETENSORS, "parquet": PARQUET}.items()
}
"""By format, what is wrong with a file, and what makes it so."""
