"""Out and in again: ids and values come back exactly, and other people's files come in as they are."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from pipeline.errors import UserError
from pipeline.store import FeatureStore, Head, interchange
from pipeline.store.interchange import export, import_features, suffixes

HEADS = {
    "pooled": Head((6,), "float16"),
    "wide": Head((5,), "float32"),
    "tokens": Head((3, 7), "bfloat16"),
    "small": Head((9,), "int8"),
    "sparse": Head((8,), "float32", codec="zstd"),
    "one": Head((), "float32"),
    "pooled@flip": Head((6,), "float16", view={"flip": True}),
    "layer:4": Head((6,), "float16"),
}
FORMATS = suffixes()


@pytest.fixture
def names() -> list[str]:
    """Ids as they come: with letters of anywhere, digits that are no numbers, and nothing at all."""
    return ["007", "", "größe/βγ 1", "a\nb", '"x", y', *(f"row {number}" for number in range(20))]


@pytest.fixture
def store(make: Any, names: list[str]) -> FeatureStore:
    return make(names, heads=HEADS, recipe={"model": "m", "lr": 0.5}, dataset="tweets", created_by={"torch": "2"})


def test_these_are_the_formats():
    assert FORMATS == [".h5", ".npy", ".parquet", ".pt", ".safetensors"]


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("suffix", [*FORMATS, ".hdf5"])
def test_a_round_trip_keeps_ids_values_and_recipe(
    store: FeatureStore, tmp_path: Path, suffix: str, head: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(interchange, "BLOCK_BYTES", 300)  # several blocks
    file = export(store, tmp_path / f"features{suffix}", head)
    back = import_features(file, tmp_path / "back")
    assert list(back.ids) == list(store.ids)
    np.testing.assert_array_equal(back.rows.digests, store.rows.digests)
    ours, theirs = store.reader(head)(range(25)), back.reader(head)(range(25))
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)
    assert (back.recipe, back.dataset, back.created_by) == (store.recipe, store.dataset, store.created_by)
    if store.heads[head].dtype != "int8" and store.heads[head].codec == "raw":
        assert back.head_digest(head) == store.head_digest(head), "the very same features"


@pytest.mark.parametrize("suffix", FORMATS)
def test_some_rows_in_another_order_keep_their_ids(store: FeatureStore, tmp_path: Path, suffix: str):
    rows = np.array([20, 3, 11])
    back = import_features(export(store, tmp_path / f"f{suffix}", "pooled", rows), tmp_path / "back")
    assert list(back.ids) == store.ids[rows].tolist()
    np.testing.assert_array_equal(back[:], store.reader("pooled")(rows))


def test_other_tools_read_what_was_exported(store: FeatureStore, tmp_path: Path):
    exact = store.reader("wide")(range(25))
    np.testing.assert_array_equal(np.load(export(store, tmp_path / "f.npy", "wide")), exact)
    with h5py.File(export(store, tmp_path / "f.h5", "wide")) as file:
        np.testing.assert_array_equal(file["features"][:], exact)
        assert [name.decode() for name in file["ids"][:]] == list(store.ids)
    table = pq.read_table(export(store, tmp_path / "f.parquet", "wide"))
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), np.float32), exact)
    assert table["id"].to_pylist() == list(store.ids)
    loaded = safetensors.numpy.load_file(export(store, tmp_path / "f.safetensors", "wide"))
    np.testing.assert_array_equal(loaded["features"], exact)
    tokens = safetensors.torch.load_file(export(store, tmp_path / "t.safetensors", "tokens"))["features"]
    assert tokens.dtype == torch.bfloat16
    np.testing.assert_array_equal(tokens.float().numpy(), store.reader("tokens")(range(25)))


def test_the_published_script_finds_train_and_test_in_a_pt(store: FeatureStore, tmp_path: Path):
    rows = np.r_[np.arange(5, 25), np.arange(5)]
    file = export(store, tmp_path / "f.pt", "wide", rows, {"train": 20, "test": 5})
    found = torch.load(file, weights_only=True)
    np.testing.assert_array_equal(found["train"], store.reader("wide")(np.arange(5, 25)))
    np.testing.assert_array_equal(found["test"], store.reader("wide")(np.arange(5)))
    back = import_features(file, tmp_path / "back")
    assert list(back.ids) == store.ids[rows].tolist()


def test_the_published_scripts_own_files_come_in(tmp_path: Path):
    train, test = torch.randn(30, 4), torch.randn(10, 4)
    torch.save({"train": train, "test": test}, tmp_path / "vit.pt")
    store = import_features(tmp_path / "vit.pt", tmp_path / "s")
    assert store.ids[[0, 29, 30, 39]].tolist() == ["train:0", "train:29", "test:0", "test:9"]
    np.testing.assert_array_equal(store[:], torch.cat([train, test]))
    assert list(store.recipe["imported"]) == ["vit.pt"] and len(store.recipe["imported"]["vit.pt"]) == 32


class Evil:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("hacked"),)


@pytest.mark.parametrize("how", ["pt", "npy", "npz"])
def test_no_file_runs_code(store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "f.npy"
    match how:
        case "pt":
            file = tmp_path / "f.pt"
            torch.save({"train": torch.zeros(2, 2), "x": Evil()}, file)
        case "npy":
            np.save(file, np.array([Evil()], dtype=object), allow_pickle=True)
        case "npz":
            export(store, file, "pooled")
            with (tmp_path / "f.rows.npz").open("wb") as target:
                np.savez(target, id_bytes=np.array([Evil()], dtype=object), id_ends=np.zeros(1), digests=np.zeros(1))
    with pytest.raises(UserError, match=f"{file.name}|f.rows.npz"):
        import_features(file, tmp_path / "s")
    assert not (tmp_path / "hacked").exists()
    pickle.loads(pickle.dumps(Evil()))
    assert (tmp_path / "hacked").exists(), "it would have run"


@pytest.mark.parametrize("batch", [False, True])
def test_slides_of_pathology_tools_come_in(tmp_path: Path, batch: bool):
    """One file a slide: `features`, with or without a batch of one, and `coords`."""
    slides = {}
    for name, count in (("slide_a", 7), ("slide_b", 5)):
        features = np.random.default_rng(count).standard_normal((count, 12)).astype(np.float32)
        coords = np.arange(2 * count).reshape(count, 2) * 256
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["features"] = features[None] if batch else features
            file["coords"] = coords[None] if batch else coords
            file["features"].attrs["encoder"] = "uni"
        slides[name] = features
    store = import_features([tmp_path / "slide_a.h5", tmp_path / "slide_b.h5"], tmp_path / "s")
    assert store.ids[[0, 6, 7]].tolist() == ["slide_a:0,256", "slide_a:3072,3328", "slide_b:0,256"]
    np.testing.assert_array_equal(store[:], np.concatenate(list(slides.values())))
    assert set(store.recipe["imported"]) == {"slide_a.h5", "slide_b.h5"}


def test_bare_arrays_get_numbers_for_ids_and_digests_of_their_values(tmp_path: Path):
    values = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float16)
    np.save(tmp_path / "x.npy", values)
    store = import_features(tmp_path / "x.npy", tmp_path / "s", head="cls")
    assert list(store.ids) == [str(row) for row in range(9)] and store.heads == {"cls": Head((4,), "float16")}
    changed = values.copy()
    changed[4] += 1
    np.save(tmp_path / "y.npy", changed)
    other = import_features(tmp_path / "y.npy", tmp_path / "t")
    differ = (other.rows.digests != store.rows.digests).any(axis=1)
    assert np.flatnonzero(differ).tolist() == [4] and store.content_digest != other.content_digest


def test_features_of_a_known_dataset_take_its_rows(tmp_path: Path, index: Any):
    np.save(tmp_path / "x.npy", np.ones((3, 4), np.float32))
    rows = index(["a", "b", "c"])
    store = import_features(tmp_path / "x.npy", tmp_path / "s", rows=rows, dataset="tweets", dtype="bfloat16")
    store.check(dataset="tweets", ids=["a", "b", "c"])
    assert store.rows.digest() == rows.digest() and store.heads["pooled"].dtype == "bfloat16"
    with pytest.raises(UserError, match="3 rows of features for 2 rows of the dataset"):
        import_features(tmp_path / "x.npy", tmp_path / "t", rows=index(["a", "b"]))


def test_parquet_of_others_comes_in(tmp_path: Path):
    lists = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64()))
    pq.write_table(pa.table({"id": ["x", "y"], "embedding": lists}), tmp_path / "f.parquet")
    store = import_features(tmp_path / "f.parquet", tmp_path / "s")
    assert list(store.ids) == ["x", "y"] and store[:].tolist() == [[1, 2], [3, 4]]


def write_bad(path: Path, what: str) -> None:
    """Files that look like features, and are not."""
    ragged = pa.array([[1.0, 2.0], [3.0]], pa.list_(pa.float32()))
    match what:
        case "no.h5" | "no.npy" | "no.parquet" | "no.pt" | "no.safetensors":
            path.write_bytes(b"this is not it")
        case "other.h5":
            with h5py.File(path, "w") as file:
                file["coords"] = np.zeros((3, 2))
        case "integers.h5":
            with h5py.File(path, "w") as file:
                file["features"] = np.zeros((3, 2), int)
        case "coords.h5":
            with h5py.File(path, "w") as file:
                file["features"], file["coords"] = np.zeros((3, 2)), np.zeros((2, 2))
        case "integers.npy":
            np.save(path, np.zeros((3, 2), int))
        case "other.parquet":
            pq.write_table(pa.table({"text": ["a"]}), path)
        case "scalar.parquet":
            pq.write_table(pa.table({"features": [1.0]}), path)
        case "ragged.parquet":
            pq.write_table(pa.table({"features": ragged}), path)
        case "missing.parquet":
            pq.write_table(pa.table({"features": pa.array([[1.0], None], pa.list_(pa.float32()))}), path)
        case "list.pt":
            torch.save([torch.zeros(2, 2)], path)
        case "shapes.pt":
            torch.save({"train": torch.zeros(2, 2), "test": torch.zeros(2, 3)}, path)
        case "two.safetensors":
            safetensors.numpy.save_file({"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}, path)
        case "nan.npy":
            np.save(path, np.full((3, 2), np.nan, np.float32))


@pytest.mark.parametrize(
    "what",
    ["no.h5", "no.npy", "no.parquet", "no.pt", "no.safetensors", "other.h5", "integers.h5", "coords.h5", "integers.npy",
     "other.parquet", "scalar.parquet", "ragged.parquet", "missing.parquet", "list.pt", "shapes.pt", "two.safetensors",
     "nan.npy"],
)  # fmt: skip
def test_what_cannot_be_features_is_refused_in_one_line(tmp_path: Path, what: str):
    write_bad(tmp_path / what, what)
    with pytest.raises(UserError) as error:
        import_features(tmp_path / what, tmp_path / "s")
    assert "\n" not in str(error.value) and (what in str(error.value) or what == "nan.npy")
    with pytest.raises(UserError):
        FeatureStore.open(tmp_path / "s")


def test_unknown_and_missing_files_are_named(store: FeatureStore, tmp_path: Path):
    with pytest.raises(UserError, match=r"unknown format '.csv'; there are .h5, .npy, .parquet, .pt, .safetensors"):
        export(store, tmp_path / "x.csv", "pooled")
    with pytest.raises(UserError, match=r"x\.h5: no such file"):
        import_features(tmp_path / "x.h5", tmp_path / "s")


def test_an_import_does_not_replace_another_store(store: FeatureStore, make: Any, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.ones((3, 4), np.float32))
    with pytest.raises(UserError, match="another store is there"):
        import_features(tmp_path / "x.npy", make.path)
    assert len(FeatureStore.open(make.path)) == 25


IMPORT = """
import sys
from pipeline.store import StoreWriter
from pipeline.store.interchange import import_features

write = StoreWriter.write
def told(writer, shard, features):
    write(writer, shard, features)
    writer._queue.join()
    print(shard.index, flush=True)
    if shard.index == int(sys.argv[3]):
        sys.stdin.read()

StoreWriter.write = told
import_features(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("shards", [0, 3, 6])
def test_a_killed_import_continues(tmp_path: Path, files_of: Any, shards: int):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32))
    undisturbed = import_features(tmp_path / "x.npy", tmp_path / "undisturbed")
    command = [sys.executable, "-c", IMPORT, tmp_path / "x.npy", tmp_path / "s", str(shards)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and [process.stdout.readline() for _ in range(shards + 1)][-1] == f"{shards}\n"
    process.kill()
    process.communicate()
    notes: list[str] = []
    import_features(tmp_path / "x.npy", tmp_path / "s", say=notes.append)
    count = undisturbed.layout.shards
    assert count == 8 and notes == [f"{tmp_path}/s: continuing: {shards + 1} of 8 shards are there"]
    assert files_of(tmp_path / "s") == files_of(tmp_path / "undisturbed")
    notes.clear()
    import_features(tmp_path / "x.npy", tmp_path / "s", say=notes.append)
    assert notes == [f"{tmp_path}/s: complete: 8 of 8 shards are there"]


def test_an_interrupted_import_is_not_continued_with_another_file(tmp_path: Path, make: Any, ids: list[str]):
    np.save(tmp_path / "x.npy", np.ones((3, 4), np.float32))
    make(ids, stop_after=2)
    with pytest.raises(UserError, match="another store is there; delete it"):
        import_features(tmp_path / "x.npy", make.path)


def test_ids_next_to_an_array_are_not_taken_for_those_of_another(store: FeatureStore, tmp_path: Path):
    export(store, tmp_path / "f.npy", "wide")
    np.save(tmp_path / "f.npy", np.ones((25, 5), np.float32))
    with pytest.raises(UserError, match=r"f\.rows\.npz: the ids of another array than f\.npy"):
        import_features(tmp_path / "f.npy", tmp_path / "s")


def test_a_failed_export_leaves_the_file_that_was_there(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "f.parquet").write_bytes(b"old")

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", broken)
    with pytest.raises(UserError, match="the disk is full"):
        export(store, tmp_path / "f.parquet", "wide")
    assert (tmp_path / "f.parquet").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.parquet", "store.zarr"]


def _h5_elsewhere(kind: str, path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    other = path.with_name("secret.bin")
    other.write_bytes(bytes(64))
    with h5py.File(path.with_name("other.h5"), "w") as file:
        file["features"] = np.zeros((4, 4), np.float32)
    with h5py.File(path, "w") as file:
        match kind:
            case "external storage":
                file.create_dataset("features", (4, 4), np.float32, external=[(str(other), 0, 64)])
            case "external link":
                file["features"] = h5py.ExternalLink("other.h5", "features")
            case "link to an external link":
                file["there"] = h5py.ExternalLink("other.h5", "features")
                file["features"] = h5py.SoftLink("/there")
            case "loop of links":
                file["features"] = h5py.SoftLink("/features")
            case "virtual":
                layout = h5py.VirtualLayout((4, 4), np.float32)
                layout[:] = h5py.VirtualSource("other.h5", "features", (4, 4))
                file.create_virtual_dataset("features", layout)


@pytest.mark.parametrize(
    "kind", ["external storage", "external link", "link to an external link", "loop of links", "virtual"]
)
def test_hdf5_that_reads_other_files_is_refused(tmp_path: Path, kind: str):
    _h5_elsewhere(kind, tmp_path / "x.h5")
    with pytest.raises(UserError, match="is a link, or its values are in another file"):
        import_features(tmp_path / "x.h5", tmp_path / "x.zarr")
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.parametrize("change", ["integer ids", "group ids", "bad text", "scalar coords", "64 GiB row", "about"])
def test_odd_hdf5_is_refused_in_one_line(tmp_path: Path, change: str):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        if change == "64 GiB row":
            file.create_dataset("features", (1, 1 << 34), np.float32, chunks=(1, 1024))
        else:
            file["features"] = np.zeros((4, 4), np.float32)
        match change:
            case "integer ids":
                file["ids"] = np.arange(4)
            case "group ids":
                file.create_group("ids")
            case "bad text":
                file["ids"] = np.array([b"a", b"b", b"\xff\xfe", b"d"], "S2")
            case "scalar coords":
                file["coords"] = 5
            case "about":
                file.attrs["feature_store"] = "{" * 100_000
    with pytest.raises(UserError) as refused:
        import_features(tmp_path / "x.h5", tmp_path / "x.zarr")
    assert "\n" not in str(refused.value)


def test_views_larger_than_the_file_are_refused(tmp_path: Path):
    torch.save({"train": torch.zeros(1).expand(10**9, 4)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="views"):
        import_features(tmp_path / "x.pt", tmp_path / "x.zarr")


@pytest.mark.parametrize("wrong", [torch.tensor(1.0), torch.zeros(4, 4).to(torch.float8_e4m3fn), [1.0], None])
def test_odd_pt_is_refused(tmp_path: Path, wrong: object):
    torch.save({"train": wrong}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="expected a dict of float tensors"):
        import_features(tmp_path / "x.pt", tmp_path / "x.zarr")


@pytest.mark.parametrize("file", ["rows/digests/c.0.0", "rows/id_bytes/c.0"])
def test_damaged_ids_and_digests_are_not_exported(make: Any, ids: list[str], tmp_path: Path, file: str):
    make(ids)
    content = bytearray((make.path / file).read_bytes())
    content[-1] ^= 1
    (make.path / file).write_bytes(content)
    with pytest.raises(UserError, match="rows: the row index is damaged; restore it or extract again"):
        export(FeatureStore.open(make.path), tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()
