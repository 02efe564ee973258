"""The largest values of a row with many, such as logits of 21,000 classes, and what the others add up to.

Kept are the m largest values z_1 .. z_m, their positions, and r = log(sum of exp(z_c) over the others). Read back is a
row of all C values again, in which the others share their sum evenly:

    z_c = r - log(C - m)

So the softmax is exact for the m largest and as a whole. With m = C nothing is left out.
"""

import numpy as np
from jaxtyping import Float32, Int


def pack(values: np.ndarray, most: int) -> Float32[np.ndarray, "n packed"]:
    """The m largest values of each row, in descending order, then r, then the m positions: [n, 2 m + 1]."""
    wide = values.astype(np.float32)
    places = np.argsort(-wide, axis=1, kind="stable")[:, :most]
    kept = np.take_along_axis(wide, places, 1)
    others = wide.copy()
    np.put_along_axis(others, places, -np.inf, 1)
    highest = others.max(1, keepdims=True)
    highest[np.isneginf(highest)] = 0
    with np.errstate(divide="ignore"):
        rest = np.log(np.exp(others - highest).sum(1, keepdims=True)) + highest
    return np.concatenate([kept, rest, places.astype(np.float32)], axis=1)


def unpack(
    kept: Float32[np.ndarray, "n kept"], places: Int[np.ndarray, "n m"], width: int, out: np.ndarray | None = None
) -> Float32[np.ndarray, "n width"]:
    """All values of each row again.

    Args:
        kept: the m largest values, then r.
        places: their positions.
        width: C.
        out: the destination; new memory if None.
    """
    most = places.shape[1]
    out = np.empty((len(kept), width), np.float32) if out is None else out
    if most < width:
        out[...] = kept[:, most:] - np.float32(np.log(width - most))
    np.put_along_axis(out, places.astype(np.int64), kept[:, :most], 1)
    return out
