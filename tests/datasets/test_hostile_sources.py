"""Sources from elsewhere: whatever is in a file, it is refused in one line, soon and in bounded memory."""

import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
import zarr
from PIL import Image

from pipeline.errors import UserError
from tests.memory import at_most

from .test_sources import read

PIXELS = np.random.default_rng(0).integers(0, 255, (20, 6, 5, 3), dtype=np.uint8)

Change = Callable[[Path], object]


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 3 << 30)


ODD: dict[str, Change] = {
    "pipe": os.mkfifo,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "empty": Path.touch,
    "deep": lambda path: path.write_text("[" * 100_000),
    "huge": huge,
}
"""What may stand where a file should."""


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    with at_most(2 << 30):
        yield


def refused(family: str, message: str, **settings: Any) -> None:
    """Read a source; it must end in one line."""
    with pytest.raises(UserError, match=message) as caught:
        read(family, **settings)
    assert "\n" not in str(caught.value)


def instead(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    ODD[kind](path)


# Arrays


def npy(folder: Path) -> dict[str, Any]:
    np.save(folder / "x.npy", PIXELS)
    np.save(folder / "y.npy", np.arange(20) % 2)
    return {"path": str(folder / "x.npy"), "labels": str(folder / "y.npy")}


def archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=PIXELS)
    return buffer.getvalue()


def claiming(shape: str, dtype: str) -> Change:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return lambda path: path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"1234")


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["x.npy", "y.npy"])
def test_what_is_not_an_npy(tmp_path: Path, name: str, kind: str):
    settings = npy(tmp_path)
    instead(tmp_path / name, kind)
    refused("arrays", r"[xy]\.npy: ", **settings)


@pytest.mark.parametrize("name", ["x.npy", "y.npy"])
@pytest.mark.parametrize(
    "change",
    [
        claiming("(1000000000000, 8, 8)", "|u1"),
        claiming("(1000000000000,)", "<i8"),
        claiming("(-5,)", "<i8"),
        lambda path: path.write_bytes(archive()),
        lambda path: np.save(path, np.array([{}], object), allow_pickle=True),
        lambda path: np.save(path, np.zeros(20, [("a", "i4")])),
        lambda path: np.save(path, np.zeros(20, "V4")),
        lambda path: np.save(path, np.zeros(20, "M8[D]")),
        lambda path: np.save(path, np.array([b"\xff", b"a"] * 10)),
    ],
)
def test_an_npy_of_something_else(tmp_path: Path, name: str, change: Change):
    settings = npy(tmp_path)
    change(tmp_path / name)
    refused("arrays", r"[xy]\.npy: ", **settings)


def elsewhere(kind: str) -> Callable[[h5py.File, str], object]:
    """A dataset whose values are in another file."""

    def fill(file: h5py.File, name: str) -> None:
        secret = Path(file.filename).with_name("secret.h5")
        with h5py.File(secret, "w") as other:
            other[name] = PIXELS
        if kind == "link":
            file[name] = h5py.ExternalLink(secret.name, name)
        elif kind == "link in a group":
            file["inside"] = h5py.ExternalLink(secret.name, "/")
            file[name] = h5py.SoftLink(f"/inside/{name}")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(PIXELS.shape, "u1")
            layout[...] = h5py.VirtualSource(secret.name, name, PIXELS.shape)
            file.create_virtual_dataset(name, layout)
        else:
            file.create_dataset(name, PIXELS.shape, "u1", external=[(str(secret), 0, PIXELS.nbytes)])

    return fill


def zipped(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Callable[[h5py.File, str], object]:
    """A dataset of which one number was written."""

    def fill(file: h5py.File, name: str) -> None:
        file.create_dataset(name, shape, "u1", chunks=chunks, compression="gzip")[(0,) * len(shape)] = 1

    return fill


@pytest.mark.parametrize("name", ["images", "labels"])
@pytest.mark.parametrize(
    "fill",
    [
        *map(elsewhere, ["link", "link in a group", "virtual", "storage"]),
        zipped((300, 4000, 4000), (1, 4000, 4000)),
        zipped((10**12,), (1000,)),
        lambda file, name: file.create_dataset(name, (100, 9, 9), "u1", chunks=(1, 9, 9)),
        lambda file, name: file.create_group(name),
        lambda file, name: file.__setitem__(name, h5py.SoftLink(f"/{name}")),
        lambda file, name: file.__setitem__(name, np.dtype("u1")),
        lambda file, name: file.__setitem__(name, np.zeros(20, [("a", "i4")])),
        lambda file, name: file.__setitem__(name, np.array([b"\xff"] * 20)),
        lambda file, name: file.create_dataset(name, (20,), h5py.vlen_dtype(np.int32)),
    ],
)
def test_hdf5_of_something_else(tmp_path: Path, name: str, fill: Callable[[h5py.File, str], object]):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for sound, values in (("images", PIXELS), ("labels", np.arange(20) % 2)):
            if sound != name:
                file[sound] = values
        fill(file, name)
    refused("arrays", r"x\.h5: ", path=str(tmp_path / "x.h5"), labels="labels")


@pytest.mark.parametrize("kind", ODD)
def test_what_is_not_hdf5(tmp_path: Path, kind: str):
    instead(tmp_path / "x.h5", kind)
    refused("arrays", r"x\.h5: ", path=str(tmp_path / "x.h5"))


def group(folder: Path, version: Any = 3) -> dict[str, Any]:
    made = zarr.open_group(folder / "x.zarr", mode="w", zarr_format=version)
    made.create_array("images", data=PIXELS, chunks=(5, 6, 5, 3))
    made.create_array("labels", data=np.arange(20) % 2 + 1)
    return {"path": str(folder / "x.zarr"), "labels": "labels"}


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind != "folder"])
@pytest.mark.parametrize("name", ["zarr.json", "images/zarr.json", "images/c/0/0/0/0", "labels/c/0", "other", "more/x"])
def test_a_zarr_with_something_else_in_it(tmp_path: Path, name: str, kind: str):
    settings = group(tmp_path)
    (tmp_path / "x.zarr" / "more").mkdir()
    instead(tmp_path / "x.zarr" / name, kind)
    if name in ("other", "more/x") and kind in ("empty", "deep", "huge"):
        assert len(read("arrays", **settings)) == 20
    else:
        refused("arrays", r"x\.zarr", **settings)


@pytest.mark.parametrize("kind", ["pipe", "zeros", "empty"])
def test_what_is_not_a_zarr(tmp_path: Path, kind: str):
    ODD[kind](tmp_path / "x.zarr")
    refused("arrays", r"x\.zarr: ", path=str(tmp_path / "x.zarr"))


def test_a_zarr_with_a_link_to_a_folder(tmp_path: Path):
    settings = group(tmp_path)
    (tmp_path / "x.zarr" / "images").rename(tmp_path / "there")
    (tmp_path / "x.zarr" / "images").symlink_to(tmp_path / "there")
    refused("arrays", r"x\.zarr/images: is a link to a folder", **settings)


@pytest.mark.parametrize("shape", [[10**12, 6, 5, 3], [20, 10**6, 10**6, 3], [-5, 6, 5, 3], ["a"], [10**30, 6, 5, 3]])
def test_a_zarr_that_claims_much(tmp_path: Path, shape: list[Any]):
    settings = group(tmp_path) | {"labels": None}
    record = tmp_path / "x.zarr" / "images" / "zarr.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"shape": shape}))
    refused("arrays", r"x\.zarr: ", **settings)


@pytest.mark.parametrize("codecs", [{"filters": [{"id": "pickle"}]}, {"compressor": {"id": "pickle"}}])
def test_a_zarr_of_pickles_is_not_run(tmp_path: Path, codecs: dict[str, Any]):
    settings = group(tmp_path, version=2)
    record = tmp_path / "x.zarr" / "images" / ".zarray"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"filters": None, "compressor": None} | codecs))
    for chunk in record.parent.glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Ran(tmp_path / "ran")))
    refused("arrays", r"x\.zarr: ", **settings)
    assert not (tmp_path / "ran").exists()


class Ran:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# WebDataset


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[number]).save(buffer, "PNG")
    return buffer.getvalue()


def packed(members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return buffer.getvalue()


MEMBERS = {f"{n}.{end}": content for n in range(4) for end, content in (("png", picture(n)), ("cls", b"%d" % (n % 2)))}


def shards(path: Path, content: bytes) -> dict[str, Any]:
    path.write_bytes(content)
    return {"path": str(path), "labels": "cls"}


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind != "huge"])  # zeros are a shard without samples
def test_what_is_not_a_shard(tmp_path: Path, kind: str):
    instead(tmp_path / "x.tar", kind)
    refused("webdataset", r"x\.tar: ", path=str(tmp_path / "x.tar"))


@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress], ids=["tar", "gz"])
def test_no_sample_of_a_damaged_shard_is_lost_without_a_word(tmp_path: Path, pack: Callable[[bytes], bytes]):
    sound = packed(MEMBERS)
    assert [row.id for row in read("webdataset", **shards(tmp_path / "x.tar", pack(sound)))] == list("0123")
    end = len(sound.rstrip(b"\0"))
    blocks = range(512, end, 512)
    for damaged in (
        *(sound[:block] for block in blocks),
        *(
            sound[:block] + b"\xff" + sound[block + 1 :]
            for block in blocks
            if sound[block + 257 : block + 262] == b"ustar"
        ),
        sound + packed({"9.png": picture(9)}),
    ):
        refused("webdataset", r"x\.tar: ", **shards(tmp_path / "x.tar", pack(damaged)))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_shard_that_becomes_much_more(tmp_path: Path, kind: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.files.SMALL", 1 << 20)
    about = tarfile.TarInfo("0.png")
    about.size, about.type = 100 << 20, kind
    content = gzip.compress(about.tobuf() + bytes(about.size) + bytes(1024), 1)
    refused("webdataset", r"x\.tar: .* bytes that expand to ", **shards(tmp_path / "x.tar", content))


def sparse(size: int) -> bytes:
    """A file of zeros of which nothing is kept."""
    header = bytearray(tarfile.TarInfo("0.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:398] = header[398:410] = b"%011o\0" % 0
    header[483:495] = b"%011o\0" % size
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    return bytes(header)


def negative() -> bytes:
    """A file of -512 bytes, which would be read again without end."""
    header = bytearray(tarfile.TarInfo("0.png").tobuf())
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    return bytes(header)


def negative_by_pax() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        about = tarfile.TarInfo("0.png")
        about.pax_headers = {"size": "-512"}
        archive.addfile(about)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [sparse(1 << 30) * 5 + bytes(1024), negative() + bytes(1024), negative_by_pax()])
def test_a_shard_with_files_of_odd_sizes(tmp_path: Path, content: bytes):
    refused("webdataset", r"x\.tar: ", **shards(tmp_path / "x.tar", content))


@pytest.mark.parametrize("seed", range(40))
def test_a_mutated_shard(tmp_path: Path, seed: int):
    random, content = Random(seed), bytearray(packed(MEMBERS, (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)[seed % 2]))
    for _ in range(random.choice([1, 4, 40])):
        content[random.randrange(len(content))] = random.choice([*b"xgLSK\x80\xff", random.randrange(256)])
    settings = shards(tmp_path / "x.tar", bytes(content))
    try:
        read("webdataset", **settings)
    except UserError as error:
        assert "\n" not in str(error)


# Hugging Face


def saved(folder: Path, table: pa.Table | None = None, stream: bool = True) -> dict[str, Any]:
    table = table or pa.table({"text": [f"a b {n}" for n in range(20)], "label": [n % 2 for n in range(20)]})
    (folder / "ds").mkdir()
    writer = pa.ipc.new_stream if stream else pa.ipc.new_file
    with writer(str(folder / "ds" / "data.arrow"), table.schema) as file:
        file.write_table(table)
    (folder / "ds" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return {"path": str(folder / "ds"), "text_column": "text", "label_column": "label"}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["state.json", "data.arrow", "dataset_dict.json"])
def test_a_folder_of_hugging_face_with_something_else_in_it(tmp_path: Path, name: str, kind: str):
    settings = saved(tmp_path)
    instead(tmp_path / "ds" / name, kind)
    refused("hugging_face", f"ds/{name}: ", **settings)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            ("state.json", json.dumps({"_data_files": files}))
            for files in (
                [1],
                [{}],
                {"a": 1},
                *([{"filename": name}] for name in (5, "", "..", "../ds/data.arrow", "\0")),
            )
        ),
        *(("state.json", content) for content in ("[]", "5", '{"_data_files": ' + "9" * 5000 + "}")),
        *(("dataset_dict.json", json.dumps({"splits": [name]})) for name in (1, [], "..", "/etc", "a\0", "a/../../ds")),
    ],
)
def test_a_record_of_hugging_face_with_something_else_in_it(tmp_path: Path, name: str, content: str):
    settings = saved(tmp_path)
    (tmp_path / "ds" / name).write_text(content)
    refused("hugging_face", f"ds/{name}: damaged", **settings)


@pytest.mark.parametrize("names", [5, {"0": "a"}, [[], {}], None, "ab", ["a"]])
def test_odd_names_of_classes(tmp_path: Path, names: Any):
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
    table = pa.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata(
        {"huggingface": json.dumps(features)}
    )
    expected = {"['a']": ["a", "1"], "[[], {}]": ["[]", "{}"]}.get(str(names), ["0", "1"])
    assert [row.label for row in read("hugging_face", **saved(tmp_path, table))] == expected


KINDS = [
    pa.string(),
    pa.large_string(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.string_view(),
    pa.list_(pa.string()),
]


@pytest.mark.parametrize("seed", range(100))
def test_mutated_arrow_reads_no_memory_that_is_not_its_own(tmp_path: Path, seed: int):
    random, kind = Random(seed), KINDS[seed % len(KINDS)]
    cells: list[Any] = [f"a rather long text {n}" for n in range(20)]
    column = pa.array([[cell] for cell in cells] if pa.types.is_list(kind) else cells, kind)
    settings = saved(tmp_path, pa.table({"text": cells, "label": column}), stream=seed % 3 > 0)
    file = tmp_path / "ds" / "data.arrow"
    content = bytearray(file.read_bytes())
    for _ in range(random.choice([1, 3, 20])):
        content[random.randrange(len(content))] = random.choice([0, 255, 127, 128, random.randrange(256)])
    file.write_bytes(content)
    try:
        read("hugging_face", **settings)
    except UserError as error:
        assert "\n" not in str(error)
    except MemoryError:
        pass


def test_offsets_of_arrow_beyond_its_bytes(tmp_path: Path):
    settings = saved(tmp_path)
    file = tmp_path / "ds" / "data.arrow"
    offsets = np.cumsum([0, *(len(f"a b {n}") for n in range(20))]).astype(np.int32)
    beyond = offsets + np.int32(1 << 30) * (np.arange(21) >= 5)
    assert offsets.tobytes() in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(offsets.tobytes(), beyond.astype(np.int32).tobytes()))
    refused("hugging_face", r"data\.arrow: cannot be read: ", **settings)
    settings = {"path": str(file), "label_column": "label"}
    refused("text_table", r"data\.arrow: cannot be read: ", **settings)
