"""Every byte counts: whatever is flipped, cut or lost is found, and named."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.store import Head
from pipeline.store.verification import Fault, compare, verify

HEADS = {"pooled": Head((5,), "float16"), "small": Head((4,), "int8"), "sparse": Head((6,), "float32", codec="zstd")}


@pytest.fixture
def sound(make: Any, ids: list[str]) -> Path:
    make(ids[:12], heads=HEADS)
    return make.path


def faults(path: Path) -> list[Fault]:
    """What verify finds; damage to the store's own metadata stops it, and counts as one."""
    try:
        return list(verify(path).faults)
    except UserError as error:
        assert "zarr.json" in str(error)
        return [Fault(str(error), "zarr.json")]


def check(path: Path, file: str, found: list[Fault]) -> None:
    """Whether a fault names the file that was damaged, or the shard and rows that it holds."""
    assert found, f"damage to {file} was not found"
    named = [fault for fault in found if fault.file.split("/")[0] == file.split("/")[0]]
    assert named, f"damage to {file} was named as {found}"
    shard = re.search(r"/c\.(\d+)\.", file)
    if shard and not file.startswith("rows/"):
        number = int(shard[1])
        start, stop = number * 8, min(number * 8 + 8, 12)
        head = file.split("/")[0].removesuffix(".scale")
        about = [(fault.head, fault.shard, fault.start, fault.stop) for fault in found]
        assert (head, number, start, stop) in about
        assert all(f"shard {number}, rows {start}-{stop - 1}" in str(fault) for fault in found)


def test_a_sound_store_has_no_faults(sound: Path):
    found = verify(sound)
    assert found.sound and found.faults == () and found.shards == 6
    sizes = [file.stat().st_size for file in sound.rglob("c.*") if file.suffix != ".json" and "rows" not in file.parts]
    assert found.nbytes == sum(sizes)


def test_every_flipped_byte_is_found_and_named(sound: Path, ids: list[str]):
    """Every 19th byte of every file, each in another bit."""
    files = sorted(file.relative_to(sound).as_posix() for file in sound.rglob("*") if file.is_file())
    assert len(files) > 25
    tried = 0
    for number, name in enumerate(files):
        file = sound / name
        good = file.read_bytes()
        for at in range(number % 19, len(good), 19):
            bad = bytearray(good)
            bad[at] ^= 1 << (at % 8)
            file.write_bytes(bad)
            check(sound, name, faults(sound))
            tried += 1
        file.write_bytes(good)
    assert tried > 400
    assert verify(sound).sound


def test_every_missing_or_truncated_file_is_found_and_named(sound: Path):
    files = sorted(file.relative_to(sound).as_posix() for file in sound.rglob("*") if file.is_file())
    for name in files:
        file = sound / name
        good = file.read_bytes()
        for length in {0, 1, len(good) // 2, len(good) - 1}:
            file.write_bytes(good[:length])
            check(sound, name, faults(sound))
        file.write_bytes(good + b"\0")
        check(sound, name, faults(sound))
        file.unlink()
        if name == "zarr.json":
            with pytest.raises(UserError, match="no feature store there"):
                verify(sound)
        else:
            check(sound, name, faults(sound))
        file.write_bytes(good)


def test_shards_that_changed_places_are_found(sound: Path):
    for suffix in ("0", "json"):
        one, two = sound / "pooled" / f"c.0.{suffix}", sound / "pooled" / f"c.1.{suffix}"
        one.rename(sound / "swap")
        two.rename(one)
        (sound / "swap").rename(two)
    assert {fault.shard for fault in verify(sound).faults} == {0, 1}


def test_shards_of_other_rows_are_found(make: Any, ids: list[str], sound: Path, tmp_path: Path):
    other = [*ids[:9], "stranger", *ids[10:12]]
    make(other, heads=HEADS, path=tmp_path / "other")
    for suffix in ("0", "json"):
        shutil.copy(tmp_path / "other" / "pooled" / f"c.1.{suffix}", sound / "pooled" / f"c.1.{suffix}")
    (fault,) = verify(sound).faults
    assert str(fault) == "pooled/c.1.json: the shard is of other rows (head `pooled`, shard 1, rows 8-11)"


def test_strange_files_are_named(sound: Path):
    (sound / "pooled" / "c.7.0").write_bytes(b"")
    (sound / "notes.txt").write_text("mine")
    assert [str(fault) for fault in verify(sound).faults] == [
        "notes.txt: does not belong in a store",
        "pooled/c.7.0: does not belong in a store",
    ]


def test_an_unfinished_store_names_what_is_missing(make: Any, ids: list[str]):
    make(ids, stop_after=5)
    assert [fault.shard for fault in verify(make.path).faults] == [5, 6]


@pytest.fixture
def stored() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((100, 16))


def test_the_same_features_agree_after_rounding(stored: np.ndarray):
    rounded = stored.astype(np.float16)
    found = compare(lambda rows: rounded[rows], lambda rows: stored[rows], np.arange(0, 100, 3))
    assert found.agrees and found.rows == 34 and found.difference < 1e-3


def test_a_comparison_is_what_it_says(stored: np.ndarray):
    fresh = stored + np.random.default_rng(1).standard_normal(stored.shape) * 0.1
    rows = np.array([4, 9, 50])
    found = compare(lambda rows: stored[rows], lambda rows: fresh[rows], rows)
    cosines = [
        sum(a * b for a, b in zip(stored[row], fresh[row], strict=True))
        / (sum(a * a for a in stored[row]) * sum(b * b for b in fresh[row])) ** 0.5
        for row in rows
    ]
    assert found.cosine == pytest.approx(min(cosines))
    assert found.worst == rows[int(np.argmin(cosines))]
    largest = max(abs(a) for row in rows for a in stored[row])
    differences = [abs(a - b) for row in rows for a, b in zip(stored[row], fresh[row], strict=True)]
    assert found.difference == pytest.approx(max(differences) / largest)
    assert not found.agrees and "DIFFER" in str(found)
    assert ", 0.9999 or more wanted), " in str(found) and str(found).endswith("(0.1 or less wanted)")


@pytest.mark.parametrize("what", ["one other row", "one wrong number", "zeros", "scaled"])
def test_other_features_do_not_pass(stored: np.ndarray, what: str):
    fresh = stored.copy()
    match what:
        case "one other row":
            fresh[7] = stored[8]
        case "one wrong number":
            fresh[7, 3] += 1
        case "zeros":
            fresh[7] = 0
        case "scaled":
            fresh *= 1.2
    assert not compare(lambda rows: stored[rows], lambda rows: fresh[rows], np.arange(100)).agrees


def test_rows_of_zeros_agree_with_each_other(stored: np.ndarray):
    stored[3] = 0
    assert compare(lambda rows: stored[rows], lambda rows: stored[rows], np.arange(100)).agrees


def test_another_model_is_told_by_its_width(stored: np.ndarray):
    with pytest.raises(UserError, match="stored rows have 16 numbers, computed ones 8"):
        compare(lambda rows: stored[rows], lambda rows: stored[rows, :8], np.arange(3))
