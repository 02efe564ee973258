"""Real processes, killed at random moments of writing, alone and two at a time."""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from pipeline.store import FeatureStore
from pipeline.store.verification import verify

from ..waiting import wait_until

ROWS, SHARD_ROWS, KILLS = 96, 8, 56

WRITER = f"""
import sys, time
import numpy as np
from pipeline.store import Head, RowIndex, StoreWriter

ids = [f"row {{number}}" for number in range({ROWS})]
digests = np.arange({ROWS}, dtype=np.uint8).repeat(16).reshape(-1, 16)
heads = {{"pooled": Head((64,)), "small": Head((5,), "int8")}}
print("ready", flush=True)
with StoreWriter.open(sys.argv[1], rows=RowIndex(ids, digests), dataset="d", recipe={{"m": 1}}, heads=heads,
                      shard_rows={SHARD_ROWS}) as writer:
    for shard in writer.missing():
        random = np.random.default_rng(shard.index)
        time.sleep(0.002)
        features = {{name: random.standard_normal((len(shard), *head.shape)) for name, head in heads.items()}}
        writer.write(shard, features)
        print(shard.index, flush=True)
"""


def start(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finished(path: Path) -> set[int]:
    """The shards that are on the disk, with all their heads."""
    heads = [{int(file.name.split(".")[1]) for file in (path / head).glob("c.*.json")} for head in ("pooled", "small")]
    return heads[0] & heads[1]


def test_killed_at_any_moment_a_store_resumes_and_ends_bit_identical(
    tmp_path: Path, files_of: Callable[[Path], dict[str, bytes]]
):
    undisturbed = tmp_path / "undisturbed"
    process = start(undisturbed)
    process.communicate()
    assert process.returncode == 0
    expected = files_of(undisturbed)
    assert verify(undisturbed).sound

    chance = random.Random(0)
    path = tmp_path / "store"
    kills = within = 0
    while kills < KILLS:
        before = finished(path)
        many = chance.choice([1, 1, 2])
        processes = [start(path) for _ in range(many)]
        written = set()
        for process in processes:
            # A few shards, and then any moment of the next: however fast or busy the machine is.
            assert process.stdout is not None
            wait = chance.randrange(5)
            written |= {int(line) for line in islice(process.stdout, wait)}
            time.sleep(chance.uniform(0, 0.01))
            kills += process.poll() is None
            process.kill()
        written |= {int(line) for process in processes for line in process.communicate()[0].split()}
        after = finished(path)
        within += 0 < len(after) < ROWS // SHARD_ROWS
        assert before <= after, "what was finished stays"
        assert len(written - after) <= many, "each writer loses at most the one shard that was on its way to the disk"
        if all(process.returncode == 0 for process in processes):
            assert files_of(path) == expected
            shutil.rmtree(path)
    process = start(path)
    process.communicate()
    assert process.returncode == 0
    assert files_of(path) == expected
    assert within >= 3, "some kills met a store that was half written"


def test_processes_share_the_work_and_all_end_with_a_complete_store(tmp_path: Path):
    processes = [start(tmp_path / "store") for _ in range(3)]
    shares = [[int(line) for line in process.communicate()[0].split()] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(index for share in shares for index in share) == list(range(ROWS // SHARD_ROWS))
    assert verify(tmp_path / "store").sound


def test_the_shard_of_a_killed_process_is_taken_over_by_one_that_waits_for_it(tmp_path: Path):
    slow = WRITER.replace("time.sleep(0.002)", "time.sleep(86_400)")
    path = tmp_path / "store"
    holder = subprocess.Popen([sys.executable, "-c", slow, str(path)], stdout=subprocess.PIPE, text=True)
    lock = path / "locks" / "shard-0"
    wait_until(lambda: lock.exists() and lock.read_text(), holder)
    other = start(path)
    wait_until(lambda: finished(path) == set(range(1, ROWS // SHARD_ROWS)), other)
    time.sleep(0.2)
    assert other.poll() is None, "all other shards are done, and it waits for this one"
    holder.kill()
    holder.communicate()
    assert other.communicate()[0].split()[-1] == "0"
    assert other.returncode == 0
    assert verify(path).sound


def test_a_full_disk_leaves_a_store_that_resumes(tmp_path: Path, files_of: Callable[[Path], dict[str, bytes]]):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs rights that this machine does not give")
    try:
        process = subprocess.run(
            [sys.executable, "-c", WRITER, str(small / "store")], capture_output=True, text=True, check=False
        )
        assert process.returncode == 1
        assert "the disk is full; free some space" in process.stderr
        kept = finished(small / "store")
        assert 0 < len(kept) < ROWS // SHARD_ROWS
        assert not list(small.rglob("*.partial"))
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        again = start(small / "store")
        written = {int(line) for line in again.communicate()[0].split()}
        assert again.returncode == 0
        assert written == set(range(ROWS // SHARD_ROWS)) - kept
        start(tmp_path / "undisturbed").communicate()
        assert files_of(small / "store") == files_of(tmp_path / "undisturbed")
        assert np.isfinite(FeatureStore.open(small / "store")[:]).all()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
