"""Heads that keep a row's largest values: against the definition, and written and read as every other head."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.extraction.worker import _packed
from pipeline.store import FeatureStore, Head, RowIndex, StoreWriter, interchange
from pipeline.store.backends import backend_at
from pipeline.store.device import DeviceReader
from pipeline.store.largest import pack, unpack

WIDTH = 41


def logits(rows: int = 30, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 4, (rows, width)).astype(np.float32)


def defined(row: list[float], most: int) -> list[float]:
    """The module's formula with Python's floats."""
    kept = sorted(range(len(row)), key=lambda place: -row[place])[:most]
    rest = [value for place, value in enumerate(row) if place not in kept]
    if not rest:
        return row
    share = math.log(sum(math.exp(value) for value in rest)) - math.log(len(rest))
    return [row[place] if place in kept else share for place in range(len(row))]


def there_and_back(values: np.ndarray, most: int) -> np.ndarray:
    packed = pack(values, most)
    return unpack(packed[:, : most + 1], packed[:, most + 1 :].astype(np.int32), values.shape[1])


@pytest.mark.parametrize("most", [1, 5, WIDTH - 1, WIDTH])
def test_equals_its_definition(most: int) -> None:
    values = logits()
    expected = [defined(row, most) for row in values.astype(float).tolist()]
    np.testing.assert_allclose(there_and_back(values, most), expected, rtol=1e-5, atol=1e-5)


def test_with_all_values_kept_the_numbers_are_the_same() -> None:
    np.testing.assert_array_equal(there_and_back(logits(), WIDTH), logits())


@pytest.mark.parametrize("most", [1, 5, 12])
def test_the_softmax_is_exact_for_what_is_kept_and_as_a_whole(most: int) -> None:
    values, back = torch.from_numpy(logits()).double(), torch.from_numpy(there_and_back(logits(), most)).double()
    torch.testing.assert_close(back.logsumexp(1), values.logsumexp(1), rtol=1e-6, atol=1e-6)
    places = values.topk(most, dim=1).indices
    one, other = (every.softmax(1).gather(1, places) for every in (values, back))
    torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)


def test_the_device_packs_as_numpy_does() -> None:
    values = logits()
    np.testing.assert_allclose(_packed(torch.from_numpy(values), 7).numpy(), pack(values, 7), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_written_and_read_as_every_other_head(tmp_path: Path, dtype: str, codec: str) -> None:
    values, head = logits(), Head((WIDTH,), dtype, codec, largest=6)  # type: ignore[arg-type]
    rows = RowIndex([f"r{n}" for n in range(30)], np.arange(30 * 16, dtype=np.uint8))
    heads = {"logits": head, "packed": head}
    with StoreWriter.open(tmp_path / "s", rows=rows, dataset="d", recipe={}, heads=heads, shard_rows=8) as writer:
        for shard in writer.missing():
            some = values[shard.rows]
            writer.write(shard, {"logits": some, "packed": pack(some, 6)})
    store = FeatureStore.open(tmp_path / "s")
    assert store.heads["logits"] == head and head.row_bytes == 6 * 4 + 7 * {"float32": 4}.get(dtype, 2)
    found = store.reader("logits")(np.array([4, 29, 4, 0]))
    expected = there_and_back(values, 6)[[4, 29, 4, 0]]
    assert found.dtype == np.float32 and found.shape == (4, WIDTH)
    # The logsumexp, of about 12, is rounded too: to eight bits in bfloat16.
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol={"bfloat16": 0.1, "float16": 1e-2}.get(dtype, 1e-5))
    np.testing.assert_array_equal(store.reader("packed")(np.array([4, 29, 4, 0])), found)
    device = DeviceReader(backend_at(tmp_path / "s"), store.layout, "logits", "a test", "cpu")
    np.testing.assert_allclose(device(torch.tensor([4, 29, 4, 0])).numpy(), found, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(
        np.load(interchange.export(store, tmp_path / "all.npy", "logits"))[[4, 29]], found[:2]
    )


@pytest.mark.parametrize(("shape", "dtype", "most"), [((9,), "float16", 3), ((9,), "int8", 1), ((9, 9), "float16", 1)])
def test_what_saves_nothing_or_has_no_meaning_is_refused(shape: tuple[int, ...], dtype: str, most: int) -> None:
    with pytest.raises(UserError, match="largest values has rows of one dimension, with more than three times as many"):
        Head(shape, dtype, largest=most)  # type: ignore[arg-type]
