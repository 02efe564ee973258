"""Conversion of values for storage: rounding, bfloat16, int8 with scales, and checks for NaN and infinity."""

import math

import numpy as np

from pipeline.errors import UserError, count
from pipeline.store.format import STORED, Head
from pipeline.store.largest import pack, unpack
from pipeline.store.memory import page_aligned

# The bits of the exponent: all set means NaN or infinity.
EXPONENT = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000}
BLOCK_NUMBERS = 1 << 16
BITS = {"float16": np.uint16, "bfloat16": np.uint16, "float32": np.uint32}


def encode(values: np.ndarray, name: str, head: Head) -> dict[str, np.ndarray]:
    """Rows of a head in the form of its arrays: new, C-contiguous and page-aligned memory, little-endian.

    Args:
        values: float [n, *head.shape]; for bfloat16 also its bits, as uint16. For a head that keeps its largest values
            also what `largest.pack` makes of them.

    Raises:
        UserError: the shape is wrong, or these are not floats.
        NotFinite: a row holds NaN or infinity, before or after rounding to the head's dtype.
    """
    values = np.asarray(values)
    if head.largest is not None:
        return _encode_largest(values, name, head, head.largest)
    if values.shape[1:] != head.shape:
        raise UserError(f"head `{name}` has rows of shape {head.shape}, found {values.shape[1:]}")
    bits = head.dtype == "bfloat16" and values.dtype == np.uint16
    if values.dtype.kind != "f" and not bits:
        raise UserError(f"head `{name}` holds floats, found {values.dtype}")
    if head.dtype == "int8":
        return _quantise(values, name)
    stored = page_aligned(values.shape, STORED[head.dtype])
    step = max(1, BLOCK_NUMBERS // max(1, math.prod(head.shape)))
    wrong: list[int] = []
    for start in range(0, len(values), step):  # in blocks that fit the processor's cache between copy and check
        block, target = values[start : start + step], stored[start : start + step]
        with np.errstate(over="ignore"):  # an overflow becomes infinity, which is found next
            target[...] = _to_bfloat16(block) if head.dtype == "bfloat16" and not bits else block
        wrong += (start + _not_finite(target, head)).tolist()
    if wrong:
        raise NotFinite(np.array(wrong), overflow=not bits and bool(np.isfinite(values[wrong]).all()))
    return {name: stored}


def _not_finite(stored: np.ndarray, head: Head) -> np.ndarray:
    """Positions of the rows with NaN or infinity."""
    exponent = EXPONENT[head.dtype]
    found = stored.view(BITS[head.dtype]) & exponent
    if not found.size or int(found.max()) != exponent:
        return np.zeros(0, np.int64)
    return np.flatnonzero((found == exponent).reshape(len(stored), -1).any(axis=1))


class NotFinite(ValueError):
    """Rows hold NaN or infinity. `rows` are their positions; `overflow` if this comes from rounding."""

    def __init__(self, rows: np.ndarray, overflow: bool):
        super().__init__(f"{count(len(rows), 'row')} not finite")
        self.rows = rows
        self.overflow = overflow


def decode(arrays: dict[str, np.ndarray], name: str, head: Head, out: np.ndarray | None = None) -> np.ndarray:
    """The inverse of `encode`: float16 and float32 as they are; bfloat16, int8 and largest values as float32."""
    stored = arrays[name]
    if head.largest is not None:
        kept = decode({name: stored}, name, _kept(head, head.largest)).astype(np.float32)
        return unpack(kept, arrays[f"{name}.index"], head.shape[0], out)
    match head.dtype:
        case "bfloat16":
            out = np.empty(stored.shape, np.float32) if out is None else out
            # A bfloat16 is the upper half of a float32.
            np.left_shift(stored, np.uint32(16), out=out.view(np.uint32), dtype=np.uint32)
            return out
        case "int8":
            out = np.empty(stored.shape, np.float32) if out is None else out
            return np.multiply(stored, arrays[f"{name}.scale"][..., None], out=out, dtype=np.float32)
    if out is None:
        return stored
    np.copyto(out, stored)
    return out


def as_stored(values: np.ndarray, name: str, head: Head) -> np.ndarray:
    """Values as they come back from the store, without writing them. Raises as `encode` does."""
    return decode(encode(values, name, head), name, head)


def arriving_dtype(head: Head) -> np.dtype:
    """The dtype of `decode`'s result."""
    return np.dtype(np.float16 if head.dtype == "float16" and head.largest is None else np.float32)


def _kept(head: Head, largest: int) -> Head:
    """A head of only the largest values, and what the others add up to."""
    return Head((largest + 1,), head.dtype)


def _encode_largest(values: np.ndarray, name: str, head: Head, largest: int) -> dict[str, np.ndarray]:
    packed = pack(values, largest) if values.shape[1:] == head.shape else values
    if packed.shape[1:] != (2 * largest + 1,):
        raise UserError(f"head `{name}` has rows of shape {head.shape}, found {values.shape[1:]}")
    stored = encode(packed[:, : largest + 1], name, _kept(head, largest))
    index = page_aligned((len(packed), largest), "<i4")
    index[...] = packed[:, largest + 1 :]
    return {**stored, f"{name}.index": index}


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16, ties to even; NaN stays NaN."""
    wide = values.astype(np.float32, order="C")
    bits = wide.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    rounded[np.isnan(wide)] = 0x7FC0
    return rounded.astype("<u2")


def _quantise(values: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """int8 codes and scales: each vector along the last axis is its codes times its scale, max |x| / 127."""
    wide = values.astype(np.float32, order="C")
    peak = np.abs(wide).max(axis=-1)
    if not np.isfinite(peak).all():
        wrong = ~np.isfinite(peak).reshape(len(peak), -1).all(axis=1)
        raise NotFinite(np.flatnonzero(wrong), overflow=bool(np.isfinite(values[wrong]).all()))
    scale = (peak / np.float32(127)).astype("<f4")
    # Rows of zeros, and rows with a scale that rounds to zero, have codes of zero.
    codes = np.rint(np.divide(wide, scale[..., None], out=np.zeros_like(wide), where=scale[..., None] > 0))
    stored = page_aligned(values.shape, STORED["int8"])
    np.clip(codes, -127, 127, out=stored, casting="unsafe")
    return {name: stored, f"{name}.scale": scale}
