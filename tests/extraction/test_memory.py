"""Batches that do not fit the memory, and values that do not fit float16."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.extraction.worker import ShardWorker
from pipeline.machine import is_out_of_memory
from pipeline.store import FeatureStore, StoreWriter, Widened

from .test_extractor import Load, Made, bits, encoder, extract, make_texts, settings, texts

__all__ = ["encoder", "texts"]

CPU_ALLOCATOR = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
FULL = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError(CPU_ALLOCATOR),
    lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    lambda: RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB)"),
    MemoryError,
]


class Small(Made):
    """A teacher whose feature depends on the rows and the padding of its batch, and whose memory is small."""

    def __init__(self, fits: Callable[[int, int], bool], full: Callable[[], Exception] = MemoryError):
        super().__init__()
        self.fits, self.full, self.failed = fits, full, 0

    def collate(self, examples):  # type: ignore[no-untyped-def]
        longest = max(examples)
        ids = torch.zeros(len(examples), longest)
        ids[:, 0] = torch.tensor(examples, dtype=torch.float32)
        return {"ids": ids}

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows, longest = batch["ids"].shape
        if not self.fits(rows, longest):
            self.failed += 1
            raise self.full()
        return {"pooled": batch["ids"][:, :1] + longest / 1024}


@pytest.mark.parametrize("full", FULL)
def test_a_batch_that_does_not_fit_is_computed_in_parts_with_the_same_bits(
    texts: Dataset, tmp_path: Path, full: Callable[[], Exception]
) -> None:
    extract(texts, Small(lambda rows, longest: True), tmp_path / "whole.zarr", settings(batch_size=32))
    heard: list[str] = []
    small = Small(lambda rows, longest: rows <= 5, full)
    done = extract(texts, small, tmp_path / "s.zarr", settings(batch_size=32), name="small", say=heard.append)
    assert done.written == 700
    assert bits(tmp_path / "s.zarr") == bits(tmp_path / "whole.zarr")
    assert any("a batch of 32 rows" in line and "does not fit the memory: computed in parts" in line for line in heard)


def test_only_batches_that_do_not_fit_are_divided_and_none_is_tried_twice(texts: Dataset, tmp_path: Path) -> None:
    longest = max(len(text) for text in texts.content(np.arange(700)))
    small = Small(lambda rows, length: rows * length <= 16 * longest)
    extract(texts, small, tmp_path / "s.zarr", settings(batch_size=32))
    extract(texts, Small(lambda rows, length: True), tmp_path / "whole.zarr", settings(batch_size=32))
    assert bits(tmp_path / "s.zarr") == bits(tmp_path / "whole.zarr")
    images = Small(lambda rows, length: rows <= 8)
    images.cost = lambda example: 1  # type: ignore[method-assign]
    images.collate = lambda examples: {"ids": torch.tensor(examples)[:, None].float()}  # type: ignore[method-assign]
    extract(texts, images, tmp_path / "images.zarr", settings(batch_size=32))
    assert images.failed == 2 + 1  # 32 and 16 rows, and the 28 rows at the end of a shard are more than 16


def test_a_real_model_has_the_same_bits_in_parts(texts: Dataset, encoder: Load, tmp_path: Path) -> None:
    whole, parts = encoder(), encoder()
    plain = parts.forward

    def forward(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if len(batch["input_ids"]) > 8:
            raise torch.OutOfMemoryError
        return plain(batch)

    parts.forward = forward  # type: ignore[method-assign]
    extract(texts, whole, tmp_path / "whole.zarr", settings(batch_size=32))
    extract(texts, parts, tmp_path / "parts.zarr", settings(batch_size=32))
    assert bits(tmp_path / "parts.zarr") == bits(tmp_path / "whole.zarr")


def test_a_store_continued_after_a_full_memory_has_the_bits_of_one_in_one_go(texts: Dataset, tmp_path: Path) -> None:
    def fits(rows: int, longest: int) -> bool:
        return rows <= 8 or longest < 150

    extract(texts, Small(fits), tmp_path / "once.zarr", settings(batch_size=32, shard_rows=64))
    cut = Small(fits)
    cut.forward = lambda batch: _after(cut, batch, 20)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="enough"):
        extract(texts, cut, tmp_path / "s.zarr", settings(batch_size=32, shard_rows=64))
    assert extract(texts, Small(fits), tmp_path / "s.zarr", settings(batch_size=32, shard_rows=64)).reused > 0
    assert bits(tmp_path / "s.zarr") == bits(tmp_path / "once.zarr")


def _after(teacher: Small, batch: Mapping[str, Tensor], calls: int) -> dict[str, Tensor]:
    teacher.batches.append([])
    if len(teacher.batches) > calls:
        raise ValueError("enough")
    return Small.forward(teacher, batch)


def test_a_row_that_does_not_fit_alone_is_named(texts: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row r\d+ does not fit the memory even alone"):
        extract(texts, Small(lambda rows, longest: False), tmp_path / "s.zarr", settings())


def test_other_failures_are_no_full_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


class Large(Made):
    """A teacher whose values are `factor` times a text's length, where `where` says so, and the length elsewhere."""

    def __init__(self, factor: float = 1e5, where: Callable[[Tensor], Tensor] = torch.ones_like):
        super().__init__()
        self.factor, self.where = factor, where

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        lengths = super().forward(batch)["pooled"]
        return {"pooled": torch.where(self.where(lengths) > 0, lengths * self.factor, lengths)}


@pytest.mark.parametrize(("largest", "dtype"), [(200.0, "float16"), (2e7, "bfloat16"), (3.4e38, "float32")])
def test_values_too_large_for_float16_are_counted_and_stored_in_a_wider_dtype(
    texts: Dataset, tmp_path: Path, largest: float, dtype: str
) -> None:
    lengths = np.array([len(text) for text in texts.content(np.arange(700))], np.float32)
    factor = largest / float(lengths.max())
    heard: list[str] = []
    done = extract(texts, Large(factor), tmp_path / "s.zarr", settings(dtype="float16"), say=heard.append)
    store = FeatureStore.open(tmp_path / "s.zarr")
    assert store.heads["pooled"].dtype == dtype
    assert (done.rows, done.written, done.reused) == (700, 700, 0)
    expected = lengths[:, None] * np.float32(factor)
    np.testing.assert_allclose(store[np.arange(700)].astype(np.float32), expected, rtol=8e-3)
    said = [line for line in heard if "too large for float16, up to" in line]
    if dtype == "float16":
        assert not said
    else:
        large = (lengths[:256] * factor >= 65520).sum()
        assert f"{large} of 256 rows have values too large for float16, up to" in said[0]
        assert any(f"all rows are stored as {dtype}" in line for line in heard)


def late(texts: Dataset) -> Large:
    """Only the longest text is too large, and it is computed after another shard is finished."""
    longest = max(len(text) for text in texts.content(np.arange(700)))
    return Large(1e4, lambda lengths: lengths == longest)


def test_a_store_that_changed_its_dtype_has_the_bits_of_one_that_was_asked_for_that(
    texts: Dataset, tmp_path: Path
) -> None:
    lengths = np.array([len(text) for text in texts.content(np.arange(700))])
    row = int(lengths.argmax())
    assert row >= 64, "the first shard has no such text"
    extract(texts, late(texts), tmp_path / "asked.zarr", settings(dtype="bfloat16", shard_rows=64))
    extract(texts, late(texts), tmp_path / "s.zarr", settings(dtype="float16", shard_rows=64))
    asked, fallen = bits(tmp_path / "asked.zarr"), bits(tmp_path / "s.zarr")
    # The group's record says which was asked for.
    assert asked.pop("zarr.json") != fallen.pop("zarr.json")
    assert fallen == asked
    head = json.loads((tmp_path / "s.zarr" / "zarr.json").read_text())["attributes"]["feature_store"]["heads"]["pooled"]
    assert (head["dtype"], head["asked"]) == ("bfloat16", "float16")


def test_it_stays_as_it_is_when_run_again_and_when_it_is_continued(texts: Dataset, tmp_path: Path) -> None:
    out, values = tmp_path / "s.zarr", settings(dtype="float16", shard_rows=64)
    extract(texts, late(texts), out, values)
    before, heard = bits(out), list[str]()
    again = extract(texts, late(texts), out, values, say=heard.append)
    assert (again.written, again.reused) == (0, 700)
    assert any("`pooled` has values too large for float16: bfloat16" in line for line in heard)
    (out / "pooled" / "c.3.json").unlink()
    assert extract(texts, late(texts), out, values).written == 64
    assert bits(out) == before
    extract(texts, late(texts), out, settings(dtype="bfloat16", shard_rows=64))
    assert FeatureStore.open(out).heads["pooled"].dtype == "bfloat16"
    extract(texts, late(texts), out, settings(dtype="float32", shard_rows=64))
    assert FeatureStore.open(out).heads["pooled"].dtype == "float32"


def test_a_process_that_was_killed_before_it_changed_the_dtype_is_continued_with_it(
    texts: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(texts, late(texts), tmp_path / "once.zarr", settings(dtype="float16", shard_rows=64))
    out = tmp_path / "s.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(ShardWorker, "_open", _only_once(ShardWorker._open))
        with pytest.raises(KeyboardInterrupt):
            extract(texts, late(texts), out, settings(dtype="float16", shard_rows=64))
    assert (out / "locks" / "wider-pooled.json").exists()
    assert extract(texts, late(texts), out, settings(dtype="float16", shard_rows=64)).written == 700
    assert bits(out) == bits(tmp_path / "once.zarr")
    # What was left behind by a teacher with another recipe counts for nothing.
    other = Made()
    other.recipe = {"family": "other", "precision": "float32"}
    extract(texts, other, out, settings(dtype="float16", shard_rows=64))
    assert FeatureStore.open(out).heads["pooled"].dtype == "float16"


def _only_once(open_: Callable[[ShardWorker], None]) -> Callable[[ShardWorker], None]:
    calls: list[int] = []

    def once(worker: ShardWorker) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        open_(worker)

    return once


def test_two_workers_agree(texts: Dataset, tmp_path: Path) -> None:
    values = settings(dtype="float16", shard_rows=64)
    extract(texts, late(texts), tmp_path / "once.zarr", values)
    out = tmp_path / "s.zarr"
    one, other = (ShardWorker(texts, late(texts), out, values, threads=1) for _ in range(2))
    shard = int(np.argmax([len(text) for text in texts.content(np.arange(700))])) // 64
    with one, other:
        steps = other(range(shard))
        next(step for step in steps if step.seconds and not step.rows)  # a shard is on its way to the disk
        wide = one([shard])
        # The one that meets the value waits until the other lets go of the store: so the other is run in between.
        said = []
        for step in wide:
            said += step.notes
            if any("too large" in note for note in step.notes):
                break
        with pytest.raises(Widened):
            one.writer.widen({"pooled": "bfloat16"})
        one.writer.__exit__(None, None, None)
        rest = list(steps)
        assert any(step.missing for step in rest), "the other starts again, too"
        assert all(step.missing is None for step in rest[-1:])
        one._open()
        list(one(range(11)))
    assert FeatureStore.open(out).heads["pooled"].dtype == "bfloat16"
    assert bits(out) == bits(tmp_path / "once.zarr")


def test_a_wider_dtype_is_never_taken_back(tmp_path: Path) -> None:
    texts = make_texts(tmp_path / "texts", 50)
    worker = ShardWorker(texts, Made(), tmp_path / "s.zarr", settings(dtype="float16"))
    with worker:
        for dtype in ("float32", "bfloat16"):
            with pytest.raises(Widened):
                worker.writer.widen({"pooled": dtype})  # type: ignore[dict-item]
        worker.writer.__exit__(None, None, None)
        worker._open()
        assert isinstance(worker.writer, StoreWriter)
        assert worker.writer.layout.heads["pooled"].dtype == "float32"
