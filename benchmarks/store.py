"""The feature store against what else there is: `python -m benchmarks.store [--quick] [--json] [--dvc]`.

Every figure is a ratio of two things measured in turns within one run, so that a busy machine slows both. Warm reads
are medians over many short turns. Needs about 12 GB of disk in full, 1 GB with `--quick`; nothing is kept.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from pipeline.store import FeatureStore, Head, RowIndex, StoreWriter
from pipeline.store.format import Layout, Marker, flat_metadata, marker_name, written

BATCH = 256
TURN_SECONDS = 0.05
SECONDS = 6.0

Step = Callable[[np.ndarray], object]


def write_store(path: Path, rows: int, head: Head, shard_rows: int | None = None) -> FeatureStore:
    """A store of random features, one shard's worth of numbers over and over: only their number matters."""
    index = RowIndex([str(row) for row in range(rows)], np.zeros((rows, 16), np.uint8))
    random = np.random.default_rng(0)
    with StoreWriter.open(
        path, rows=index, dataset="bench", recipe={"seed": 0}, heads={"pooled": head}, shard_rows=shard_rows
    ) as writer:
        values = random.standard_normal((writer.layout.shard_rows, *head.shape), dtype=np.float32).astype(np.float16)
        for shard in writer.missing():
            writer.write(shard, {"pooled": values[: len(shard)]})
    return FeatureStore.open(path)


def in_turns(steps: dict[str, Step], batches: Callable[[], Iterator[np.ndarray]], seconds: float) -> dict[str, float]:
    """Rows a second of each step: the median over short turns, taken one after the other in changing order."""
    streams = {name: endless(batches) for name in steps}
    rates: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    end = time.perf_counter() + seconds * len(steps)
    while time.perf_counter() < end or len(rates[names[0]]) < 5:
        for name in names:
            rows, start = 0, time.perf_counter()
            while (took := time.perf_counter() - start) < TURN_SECONDS or not rows:
                batch = next(streams[name])
                steps[name](batch)
                rows += len(batch)
            rates[name].append(rows / took)
        names = names[1:] + names[:1]
    return {name: median(found) for name, found in rates.items()}


def endless(batches: Callable[[], Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    """Epoch after epoch."""
    while True:
        yield from batches()


def warm(path: Path, rows: int, head: Head, seconds: float, others: bool) -> dict[str, float]:
    """Shuffled epochs from the page cache: a raw file's memmap, the store, and what else there is, in rows a second."""
    store = write_store(path / "warm.zarr", rows, head)
    reader = store.reader(mode="mapped")
    with (path / "warm.npy").open("wb") as file:
        np.lib.format.write_array_header_2_0(
            file, {"descr": "<f2", "fortran_order": False, "shape": (rows, *head.shape)}
        )
        for start in range(0, rows, 4096):
            store[start : start + 4096].tofile(file)
    memmap = np.load(path / "warm.npy", mmap_mode="r")
    ours, theirs = (np.empty((BATCH, *head.shape), np.float16) for _ in range(2))
    for start in range(0, rows - BATCH, BATCH):  # once through both, so that all pages are there
        np.take(memmap, range(start, start + BATCH), axis=0, out=theirs, mode="clip")
        assert np.array_equal(reader(range(start, start + BATCH), out=ours), theirs)
    random = np.random.default_rng(1)

    def batches() -> Iterator[np.ndarray]:
        yield from random.permutation(rows)[: rows // BATCH * BATCH].reshape(-1, BATCH)

    steps: dict[str, Step] = {
        "np.memmap, np.take into a buffer": lambda batch: np.take(memmap, batch, axis=0, out=theirs, mode="clip"),
        "store": lambda batch: reader(batch, out=ours),
    }
    found = in_turns(steps, batches, seconds)
    if others:
        found |= in_turns(rivals(path, store, memmap), batches, seconds / 3)
    return found


def rivals(path: Path, store: FeatureStore, memmap: np.ndarray) -> dict[str, Step]:
    """The same rows through other libraries, each the way its documentation gathers rows."""
    import h5py
    import torch
    import zarr

    with h5py.File(path / "warm.h5", "w") as file:
        file.create_dataset("features", data=memmap, chunks=(BATCH, *memmap.shape[1:]))
    torch.save(torch.from_numpy(np.array(memmap)), path / "warm.pt")
    dataset = h5py.File(path / "warm.h5", "r")["features"]
    array = zarr.open_array(Path(store.path) / "pooled", mode="r")
    tensor = torch.load(path / "warm.pt", weights_only=True)
    out = torch.empty((BATCH, *tensor.shape[1:]), dtype=tensor.dtype)
    torch.set_num_threads(1)
    return {
        "torch.load in RAM, index_select": lambda batch: torch.index_select(
            tensor, 0, torch.from_numpy(batch), out=out
        ),
        "h5py, sorted rows": lambda batch: dataset[np.sort(batch)],
        "zarr-python, rows": lambda batch: array.oindex[batch],
    }


def evict(path: Path) -> None:
    """Drop a store's pages from the page cache."""
    os.sync()
    for file in path.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def cold(path: Path, rows: int, head: Head, seconds: float) -> dict[str, float]:
    """An epoch over a store much larger than the page cache, in rows a second.

    The page cache is emptied of the store every few batches of random gathers, so that no row is there by chance; the
    window needs no such thing, since it reads every block once.
    """
    store = write_store(path / "cold.zarr", rows, head)
    out = np.empty((BATCH, *head.shape), np.float16)
    found: dict[str, list[float]] = {"random gathers": [], "window": []}
    for repeat in range(3):
        epoch = list(np.random.default_rng(repeat).permutation(rows)[: rows // BATCH * BATCH].reshape(-1, BATCH))
        seen, took = 0, 0.0
        while took < seconds and epoch:
            evict(path / "cold.zarr")
            reader = store.reader(mode="window")  # its plain gathers, as of a store that exceeds the memory
            start = time.perf_counter()
            for _ in range(min(4, len(epoch))):
                seen += len(reader(epoch.pop(), out=out))
            took += time.perf_counter() - start
            del reader  # pages that are mapped are not evicted
        found["random gathers"].append(seen / took)
        evict(path / "cold.zarr")
        reader = store.reader(mode="window", window=64 << 20)
        seen, start = 0, time.perf_counter()
        for batch in reader.batches(BATCH, seed=repeat, drop_last=True):
            seen += len(reader(batch, out=out))
            if time.perf_counter() - start > seconds:
                break
        found["window"].append(seen / (time.perf_counter() - start))
        del reader
    return {name: median(rates) for name, rates in found.items()}


def writes(path: Path, rows: int, head: Head, repeats: int) -> dict[str, float]:
    """Bytes a second onto the disk, until they are there: one file by torch.save, and a store."""
    import torch

    values = np.random.default_rng(0).standard_normal((rows, *head.shape), dtype=np.float32).astype(np.float16)
    tensor = torch.from_numpy(values)
    index = RowIndex([str(row) for row in range(rows)], np.zeros((rows, 16), np.uint8))
    found: dict[str, list[float]] = {"torch.save, fsync": [], "torch.save": [], "store": []}
    for repeat in range(repeats):
        for name in found:
            target = path / f"write-{repeat}-{name.replace(' ', '').replace(',', '-')}"
            os.sync()
            start = time.perf_counter()
            if name == "store":
                with StoreWriter.open(target, rows=index, dataset="d", recipe={}, heads={"pooled": head}) as writer:
                    for shard in writer.missing():
                        writer.write(shard, {"pooled": values[shard.start : shard.stop]})
            else:
                with target.open("wb") as file:
                    torch.save(tensor, file)
                    if name.endswith("fsync"):
                        file.flush()
                        os.fsync(file.fileno())
            found[name].append(values.nbytes / (time.perf_counter() - start))
            subprocess.run(["rm", "-r", str(target)], check=True)
    return {name: median(rates) for name, rates in found.items()}


def hollow(path: Path, rows: int, head: Head, shard_rows: int) -> None:
    """A store of zeros that takes no disk: its shards are holes with an index. Opens like any other."""
    layout = Layout(rows, "hollow", "bench", {"seed": 0}, shard_rows, {"pooled": head}, {})
    shapes = {"id_bytes": (rows, np.uint8), "id_ends": (rows, np.int64), "digests": ((rows, 16), np.uint8)}
    for name, (shape, dtype) in shapes.items():
        array = np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape if isinstance(shape, tuple) else (shape,))
        folder = path / "rows" / name
        folder.mkdir(parents=True)
        (folder / "zarr.json").write_bytes(flat_metadata(array))
        size = int(np.prod(array.shape)) * array.itemsize
        with (folder / ("c" + ".0" * array.ndim)).open("wb") as file:
            file.truncate(size)
            if name == "id_ends":
                file.seek(size - 8)
                file.write(np.int64(rows).tobytes())
    (path / "rows" / "zarr.json").write_bytes(written({"zarr_format": 3, "node_type": "group", "attributes": {}}))
    (path / "pooled").mkdir()
    grid = layout.grids("pooled", "raw")["pooled"]
    (path / "pooled" / "zarr.json").write_bytes(grid.metadata())
    for shard in range(grid.shards):
        with (path / "pooled" / grid.key(shard)).open("wb") as file:
            file.truncate(grid.data_bytes(shard))
            file.seek(0, os.SEEK_END)
            file.write(grid.shard_index(shard))
            size = file.tell()
        start, stop = grid.span(shard)
        files = {"pooled": {"bytes": size, "checksum": "hollow"}}
        mark = Marker(start, stop, "hollow", layout.identity("pooled"), files)
        (path / "pooled" / marker_name(shard)).write_bytes(mark.text())
    (path / "zarr.json").write_bytes(layout.metadata())


READS = """
import re, sys
import numpy as np
from pathlib import Path
from pipeline.store import FeatureStore

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

reader = FeatureStore.open(sys.argv[1]).reader(mode="mapped")
random, out, peak, first = np.random.default_rng(0), np.empty((256, *reader.shape), reader.dtype), 0, anonymous()
for step in range(100):
    reader(random.integers(0, len(reader), 256), out=out)
    peak = max(peak, anonymous()) if step % 5 == 0 else peak
print(peak)
"""


def memory(path: Path, gigabytes: list[int]) -> dict[int, float]:
    """Peak anonymous memory in MB of a process that reads 25,600 random rows, by the store's size in GB."""
    found = {}
    for size in gigabytes:
        target = path / f"hollow-{size}.zarr"
        hollow(target, size * 10**9 // 2048, Head((1024,)), 131072)
        done = subprocess.run([sys.executable, "-c", READS, str(target)], capture_output=True, text=True, check=True)
        found[size] = int(done.stdout) / 1024
    return found


def opening(path: Path, rows: int) -> dict[str, float]:
    """Seconds until a store of so many rows is open, checked and has given its first rows; median of five."""
    hollow(path / "many.zarr", rows, Head((384,)), 349_440)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        store = FeatureStore.open(path / "many.zarr")
        store.check(dataset="bench")
        store.reader(mode="mapped")([0, rows - 1])
        seconds.append(time.perf_counter() - start)
    return {"rows": rows, "seconds": median(seconds)}


def dvc(path: Path, rows: int) -> dict[str, dict[str, float]]:
    """Seconds that DVC takes to add a store, and to see that it is unchanged; and the same bytes as 10,000 files.

    It reads both from the disk: the page cache has neither.
    """
    head = Head((1024,))
    write_store(path / "dvc" / "store.zarr", rows, head)
    many = path / "dvc" / "files"
    many.mkdir()
    block = np.random.default_rng(0).integers(0, 255, rows * head.row_bytes // 10_000, np.uint8)
    for number in range(10_000):
        block[:8] = np.frombuffer(np.int64(number).tobytes(), np.uint8)
        block.tofile(many / f"{number}.npy")
    command = [sys.executable, "-m", "dvc"]
    quiet: dict[str, Any] = {"cwd": path / "dvc", "check": True, "capture_output": True}
    subprocess.run([*command, "init", "--no-scm", "-q"], **quiet)
    subprocess.run([*command, "config", "core.site_cache_dir", str(path / "site")], **quiet)
    subprocess.run([*command, "config", "cache.type", "hardlink"], **quiet)
    found: dict[str, dict[str, float]] = {}
    for name in ("store.zarr", "files"):
        evict(path / "dvc" / name)
        start = time.perf_counter()
        subprocess.run([*command, "add", "-q", name], **quiet)
        added = time.perf_counter()
        subprocess.run([*command, "status", "-q", f"{name}.dvc"], **quiet)
        again = time.perf_counter()
        files = sum(file.is_file() for file in (path / "dvc" / name).rglob("*"))
        found[name] = {"files": files, "add_seconds": added - start, "status_seconds": again - added}
    return found


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: seconds, not minutes.")] = False,
    with_dvc: Annotated[bool, typer.Option("--dvc", help="Also DVC's cost, for 2 GB.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Where to put the files meanwhile.")] = None,
) -> None:
    """Measure the store, and print each ratio with what it is a ratio of."""
    seconds = SECONDS / 6 if quick else SECONDS
    head, tokens = Head((1024,)), Head((196, 384))
    found: dict[str, Any] = {}

    @contextlib.contextmanager
    def place() -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=folder, prefix="bench-store-") as name:
            yield Path(name)

    def say(line: str) -> None:
        print(line, flush=True)

    for name, rows, shape in (
        ("pooled", 20_000 if quick else 200_000, head),
        ("tokens", 1_000 if quick else 20_000, tokens),
    ):
        with place() as path:
            rates = warm(path, rows, shape, seconds, others=name == "pooled")
        limit = rates["np.memmap, np.take into a buffer"]
        say(f"\nwarm, shuffled, batch {BATCH}, {name} {[rows, *shape.shape]} float16")
        for label, rate in sorted(rates.items(), key=lambda item: -item[1]):
            say(f"  {label:<34} {rate:>12,.0f} rows/s  {rate / limit:.4f}")
        found[f"{name}_over_memmap"] = rates["store"] / limit
        found[f"{name}_rows_per_second"] = rates
    with place() as path:
        rates = cold(path, 40_000 if quick else 1_000_000, head, seconds)
    found["cold_window_over_random"] = rates["window"] / rates["random gathers"]
    say("\ncold, nothing in the page cache, window of 64 MiB")
    for label, rate in rates.items():
        say(f"  {label:<34} {rate:>12,.0f} rows/s")
    say(f"  window over random gathers: {found['cold_window_over_random']:.1f}")
    for name, rows, repeats in (("write", 1_000_000, 5), ("small_write", 200_000, 9)):
        rows = rows // 50 if quick else rows
        with place() as path:
            rates = writes(path, rows, head, 3 if quick else repeats)
        found[f"{name}_over_torch_save"] = rates["store"] / rates["torch.save, fsync"]
        found[f"{name}_over_torch_save_unsynced"] = rates["store"] / rates["torch.save"]
        say(f"\nwriting {rows * head.row_bytes / 1e9:.2g} GB")
        for label, rate in rates.items():
            say(f"  {label:<34} {rate / 1e6:>12,.0f} MB/s  {rate / rates['torch.save, fsync']:.2f}")
    with place() as path:
        peaks = memory(path, [1, 10] if quick else [1, 10, 40])
    found["reader_anonymous_mb"] = peaks
    say("\npeak anonymous memory of a reader, by the size of the store")
    for size, peak in peaks.items():
        say(f"  {size:>3} GB: {peak:.1f} MB")
    with place() as path:
        opened = opening(path, 10_000_000)
    found["open_seconds"] = opened["seconds"]
    say(f"\nopening a store of {opened['rows']:,} rows, checking it and reading: {opened['seconds']:.3f} s")
    if with_dvc:
        with place() as path:
            found["dvc"] = dvc(path, 50_000 if quick else 1_000_000)
        say("\nDVC")
        for name, cost in found["dvc"].items():
            files, add, status = cost["files"], cost["add_seconds"], cost["status_seconds"]
            say(f"  {name:<12} {files:>6} files: add {add:.1f} s, status {status:.1f} s")
    if as_json:
        print(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
