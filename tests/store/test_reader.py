"""Reading: the same rows whichever way they are read, in any process, in any order."""

import gc
import io
import multiprocessing
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.store import FeatureStore, Head, Reader, Together, choice
from pipeline.store.format import Grid, Span
from pipeline.store.mapping import Mapping
from pipeline.store.shards import pack

HEADS = {
    "pooled": Head((6,), "float16"),
    "odd": Head((13,), "float32"),
    "tokens": Head((3, 7), "bfloat16"),
    "small": Head((33,), "int8"),
    "sparse": Head((16,), "float32", codec="zstd"),
    "one": Head((), "float32"),
    "layer:4": Head((6,), "float16"),
}
MODES = {name: ["mapped", "window", "resident", "cache", "device"] for name in HEADS}
MODES["sparse"] = ["resident", "cache", "device"]


@pytest.fixture
def store(make: Any, ids: list[str]) -> FeatureStore:
    return make(ids, heads=HEADS)


def open_reader(store: FeatureStore, head: str, mode: str, cache: Path) -> Reader:
    return store.reader(head, mode=mode, cache=cache, device="cpu" if mode == "device" else None)


def numbers(found: Any) -> np.ndarray:
    return found.numpy() if isinstance(found, torch.Tensor) else found


def expected(head: Head, exact: np.ndarray) -> np.ndarray:
    """What a head's dtype makes of exact values."""
    match head.dtype:
        case "float16":
            return exact.astype(np.float16)
        case "bfloat16":
            return torch.from_numpy(exact).to(torch.bfloat16).float().numpy()
        case "int8":
            scale = np.abs(exact).max(axis=-1, keepdims=True) / np.float32(127)
            return (np.rint(exact / scale) * scale).astype(np.float32)
    return exact


@pytest.mark.parametrize(("head", "mode"), [(head, mode) for head, modes in MODES.items() for mode in modes])
def test_every_way_of_reading_gives_the_rows_that_were_asked_for(
    store: FeatureStore, ids: list[str], features: Any, tmp_path: Path, head: str, mode: str
):
    reader = open_reader(store, head, mode, tmp_path / "cache")
    exact = expected(HEADS[head], features(ids, HEADS[head].shape))
    random = np.random.default_rng(0)
    for rows in (np.arange(50), random.permutation(50), random.integers(0, 50, 333), np.array([49]), np.array([], int)):
        found = numbers(reader(rows))
        assert found.dtype == reader.dtype and found.shape == (len(rows), *reader.shape)
        np.testing.assert_array_equal(found, exact[rows])
    assert reader.mode == mode and reader.why.startswith(f"{mode}: asked for, ")
    assert len(reader) == 50 and reader.dim == exact[0].size


@pytest.mark.parametrize("mode", MODES["pooled"])
@pytest.mark.parametrize("head", ["pooled", "tokens", "small"])
def test_rows_can_be_put_into_the_callers_memory(store: FeatureStore, tmp_path: Path, head: str, mode: str):
    reader = open_reader(store, head, mode, tmp_path)
    rows = np.array([5, 5, 0, 49])
    out: Any = np.full((4, *reader.shape), np.nan, reader.dtype)
    if mode == "device":
        out = torch.from_numpy(out)
    assert reader(rows, out=out) is out
    np.testing.assert_array_equal(numbers(out), numbers(reader(rows)))


def test_memory_that_does_not_fit_is_refused(store: FeatureStore):
    reader = store.reader("pooled")
    for out in (np.empty((3, 6), np.float16), np.empty((2, 6), np.float32), np.empty((2, 7), np.float16)):
        with pytest.raises(ValueError, match="out must be float16"):
            reader([1, 2], out=out)


@pytest.mark.parametrize("mode", MODES["pooled"])
@pytest.mark.parametrize("rows", [[-1], [50], [2**62], [0.0], [[1]], [True]])
def test_rows_out_of_range_are_refused_before_any_memory_is_touched(
    store: FeatureStore, tmp_path: Path, mode: str, rows: list
):
    with pytest.raises(IndexError):
        open_reader(store, "pooled", mode, tmp_path)(rows)


def test_zarr_reads_the_same(store: FeatureStore, make: Any):
    group = zarr.open_group(make.path, mode="r")
    assert {name for name, _ in group.members()} == {*HEADS, "small.scale", "rows"}
    for name, head in HEADS.items():
        array = group[name][:]
        if head.dtype == "bfloat16":
            array = torch.from_numpy(array).view(torch.bfloat16).float().numpy()
        if head.dtype == "int8":
            array = array * group[f"{name}.scale"][:][..., None]
        np.testing.assert_array_equal(array, store.reader(name)(range(50)))
    rows = group["rows"]
    ends = rows["id_ends"][:]
    text = rows["id_bytes"][:].tobytes()
    assert [text[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)] == list(store.ids)
    np.testing.assert_array_equal(rows["digests"][:], store.rows.digests)


@given(
    rows=st.integers(1, 200), shard_rows=st.integers(1, 70), width=st.integers(1, 40),
    dtype=st.sampled_from(["<f2", "<f4", "|i1"]), fits=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shards_of_any_size_map_into_one_array(
    tmp_path: Path, rows: int, shard_rows: int, width: int, dtype: str, fits: bool
):
    grid = Grid(rows, shard_rows, (width,), dtype, "raw")
    values = np.random.default_rng(rows).integers(-100, 100, (rows, width)).astype(dtype)
    for shard in range(grid.shards):
        start, stop = grid.span(shard)
        with (tmp_path / grid.key(shard)).open("wb") as file:
            file.writelines(pack(grid, shard, values[start:stop]))
    mapping = Mapping(tmp_path, grid, fits)
    chosen = np.random.default_rng(0).integers(0, rows, 500)
    np.testing.assert_array_equal(mapping.array[mapping.places(chosen)], values[chosen])


def mapped_bytes(path: Path) -> int:
    """How many addresses of this process are pages of files below a folder."""
    size = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(path) in line:
            start, _, end = line.split()[0].partition("-")
            size += int(end, 16) - int(start, 16)
    return size


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_mapped_pages_are_given_back_when_the_last_array_over_them_is_gone(store: FeatureStore, make: Any):
    reader = store.reader("pooled", mode="mapped")
    source = reader._arrays["pooled"].array
    assert mapped_bytes(make.path) > 0
    assert not source.flags.writeable
    del reader
    gc.collect()
    assert source[0].shape == (6,) and mapped_bytes(make.path) > 0, "an array keeps its pages"
    del source
    gc.collect()
    assert mapped_bytes(make.path) == 0


@pytest.mark.parametrize("mode", MODES["pooled"])
def test_a_reader_can_be_pickled(store: FeatureStore, tmp_path: Path, mode: str):
    reader = open_reader(store, "pooled", mode, tmp_path)
    text = pickle.dumps(reader)
    assert len(text) < 5000, "it opens its files again, and carries no features"
    np.testing.assert_array_equal(numbers(pickle.loads(text)([3, 4])), numbers(reader([3, 4])))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_workers_read_the_same(store: FeatureStore, tmp_path: Path, start: str):
    # A spawned worker imports this process's main module, which is pytest: a script of its own keeps it plain.
    code = f"""
import sys, torch
from pipeline.store import FeatureStore

class Rows(torch.utils.data.Dataset):
    def __init__(self, reader): self.reader = reader
    def __len__(self): return len(self.reader)
    def __getitem__(self, row): return self.reader([row])[0]

if __name__ == "__main__":
    reader = FeatureStore.open({str(store.path)!r}).reader("pooled")
    loader = torch.utils.data.DataLoader(Rows(reader), batch_size=7, num_workers=1, multiprocessing_context={start!r})
    read = torch.cat(list(loader)).numpy()
    sys.exit(0 if (read == reader(range(50))).all() and len(read) == 50 else 1)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, script], env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _sum_in_child(reader: Reader, answer: Any) -> None:
    answer.put(float(reader(range(50)).astype(np.float64).sum()))


def test_many_threads_and_forked_processes_may_read_at_once(store: FeatureStore):
    reader = store.reader("pooled")
    total = float(reader(range(50)).astype(np.float64).sum())
    wrong = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(50):
            rows = random.permutation(50)
            if float(reader(rows).astype(np.float64).sum()) != pytest.approx(total):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    child = context.Process(target=_sum_in_child, args=(reader, answer))
    child.start()
    assert answer.get() == total
    child.join()


@pytest.mark.parametrize("mode", ["mapped", "window", "resident", "device"])
def test_an_epoch_visits_every_row_once_in_an_order_of_its_seed(store: FeatureStore, tmp_path: Path, mode: str):
    reader = open_reader(store, "pooled", mode, tmp_path)
    epochs = [list(reader.batches(8, seed=seed)) for seed in (1, 1, 2)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [8] * 6 + [2]
        assert sorted(np.concatenate(epoch)) == list(range(50))
    orders = [np.concatenate(epoch).tolist() for epoch in epochs]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != list(range(50))
    assert [len(batch) for batch in reader.batches(8, seed=1, drop_last=True)] == [8] * 6
    some = np.array([41, 3, 17, 8, 9])
    assert sorted(np.concatenate(list(reader.batches(2, rows=some, seed=0)))) == sorted(some)


def test_a_window_reads_ahead_what_it_will_need_and_no_more(make: Any, monkeypatch: pytest.MonkeyPatch):
    """4,000 rows of 64 bytes in 16 blocks of 250, four of them in a window."""
    monkeypatch.setattr("pipeline.store.order.BLOCK_BYTES", 250 * 64)
    heads = {"pooled": Head((16,), "float32")}
    store = make([str(n) for n in range(4000)], heads=heads, shard_rows=1000, features=lambda names, shape: np.array(
        [[float(name)] * 16 for name in names]))  # fmt: skip
    reader = store.reader(mode="window", window=4 * 250 * 64)
    ahead: list[set[int]] = []
    read_ahead = reader._read_ahead

    def watched(first_rows: np.ndarray, count: int) -> None:
        ahead.append({first + n for first in first_rows.tolist() for n in range(count)})
        read_ahead(first_rows, count)

    monkeypatch.setattr(reader, "_read_ahead", watched)
    seen = 0
    for batch in reader.batches(100, seed=3):
        assert set(batch.tolist()) <= set().union(*ahead), "a row is read ahead before it is used"
        assert len(set().union(*ahead)) - seen <= 3000, "at most this window, the last one's rest and the next"
        np.testing.assert_array_equal(reader(batch)[:, 5], batch)
        blocks = {row // 250 for row in batch.tolist()}
        seen += 100
        assert len(blocks) >= 3, "a batch mixes the blocks of its window"
    assert seen == 4000 and len(ahead) == 4
    assert [len(rows) for rows in ahead] == [1000] * 4
    assert set().union(*ahead) == set(range(4000))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what was asked of a mapping")
def test_huge_pages_are_asked_for_where_the_memory_can_hold_them(store: FeatureStore, monkeypatch: pytest.MonkeyPatch):
    if not Path("/sys/kernel/mm/transparent_hugepage").is_dir():
        pytest.skip("this kernel has no huge pages")

    def asked() -> set[bool]:
        found, shard = set(), False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0]:
                shard = str(store.path) in line
            elif line.startswith("VmFlags:") and shard:
                found.add("hg" in line.split())
        return found

    reader = store.reader("pooled", mode="mapped")
    assert asked() == {True}
    del reader
    monkeypatch.setattr(choice, "available_memory", lambda: 500)
    readers = [store.reader("pooled", mode="mapped"), store.reader("pooled", mode="window")]
    assert asked() == {False}
    del readers


def test_reading_ahead_reads_just_the_rows_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.store.mapping.READ_AHEAD", 1000)
    grid = Grid(64, 32, (100,), "<f4", "raw")
    values = np.zeros((64, 100), "<f4")
    for shard in range(2):
        with (tmp_path / grid.key(shard)).open("wb") as file:
            file.writelines(pack(grid, shard, values[shard * 32 : shard * 32 + 32]))
    mapping = Mapping(tmp_path, grid)
    reads = []

    class Watched(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            reads.append((self.tell(), super().readinto(buffer)))
            return reads[-1][1]

    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: Watched(path))
    mapping.read_ahead([Span(1, 8, 20)])
    assert reads == [(3200, 1000), (4200, 1000), (5200, 1000), (6200, 1000), (7200, 800)]


def test_the_choice_follows_budgets_and_says_so(store: FeatureStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(choice, "available_memory", lambda: 10_000)
    raw, sparse = store.reader("pooled"), store.reader("sparse", cache=tmp_path)
    assert raw.why == "mapped: local and uncompressed, 600 B fit the 10 kB that may cache them"
    assert sparse.why.startswith("cache: compressed, 3.2 kB exceed the 2.5 kB granted in memory, raw copy in ")
    assert store.reader("sparse", memory=5000).why == "resident: compressed, 3.2 kB fit the 5 kB granted in memory"
    monkeypatch.setattr(choice, "available_memory", lambda: 500)
    assert store.reader("pooled").why == "window: local and uncompressed, 600 B exceed the 500 B that may cache them"
    there = store.reader("pooled", device="cpu", device_memory=600)
    assert there.why == "device: 600 B fit the 600 B granted on cpu" and isinstance(there([1]), torch.Tensor)
    here = store.reader("pooled", device="cpu", device_memory=599)
    assert here.why.startswith("window: 600 B exceed the 599 B granted on cpu; local and uncompressed")


def test_impossible_modes_are_refused(store: FeatureStore):
    with pytest.raises(UserError, match="head `sparse` is compressed and cannot be mapped"):
        store.reader("sparse", mode="mapped")
    with pytest.raises(UserError, match="pass device='cuda'"):
        store.reader("pooled", mode="device")


def test_a_device_reader_takes_rows_that_are_there_already(store: FeatureStore):
    reader = store.reader("tokens", mode="device", device="cpu")
    rows = torch.tensor([4, 2])
    assert reader(rows).dtype == torch.float32
    np.testing.assert_array_equal(reader(rows).numpy(), store.reader("tokens")([4, 2]))


def test_several_teachers_are_read_together(make: Any, ids: list[str], tmp_path: Path):
    one, two = make(ids, path=tmp_path / "one"), make(ids, path=tmp_path / "two", heads={"pooled": Head((4,))})
    both = Together({"one": one.reader(), "two": two.reader()})
    found = both([7, 3])
    np.testing.assert_array_equal(found["one"], one[[7, 3]])
    np.testing.assert_array_equal(found["two"], two[[7, 3]])
    assert len(both) == 50 and sum(len(rows) for rows in both.batches(8)) == 50
    other = make(ids[::-1], path=tmp_path / "three")
    with pytest.raises(UserError, match="`three` and `one` hold different rows"):
        Together({"one": one.reader(), "three": other.reader()})
    with pytest.raises(UserError, match="at least one reader"):
        Together({})


def test_a_shard_cut_short_is_refused_and_does_not_kill_the_process(store: FeatureStore, make: Any):
    with (make.path / "pooled" / "c.2.0").open("r+b") as file:
        file.truncate(40)
    with pytest.raises(UserError, match=r"c\.2\.0: the shard is damaged"):
        store.reader("pooled")
    (make.path / "pooled" / "c.2.0").unlink()
    with pytest.raises(UserError, match=r"c\.2\.0: the shard is missing"):
        store.reader("pooled")


def test_a_shard_index_that_points_elsewhere_is_refused(store: FeatureStore, make: Any):
    shard = make.path / "pooled" / "c.0.0"
    data = bytearray(shard.read_bytes())
    data[-20:-12] = (4).to_bytes(8, "little")
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"c\.0\.0: the shard is damaged"):
        store.reader("pooled")
