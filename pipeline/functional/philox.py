"""Random numbers that are a function of what they are for: Philox4x32-10 of Salmon et al. (2011), for arrays.

A generator with a state gives other numbers when rows come in another order or from another process. This one has none:
the numbers of a row in an epoch are a hash of a key, the row and the epoch, in any process and with any other rows.
"""

from hashlib import blake2b

import numpy as np
from jaxtyping import Float, Int, UInt32

MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)[:, None]
STEPS = np.array([0x9E3779B9, 0xBB67AE85], np.uint32)[:, None]
ROUNDS = 10


def philox(counters: UInt32[np.ndarray, "4 n"], key: UInt32[np.ndarray, " 2"]) -> UInt32[np.ndarray, "4 n"]:
    """Four random words of 32 bits for every counter of four words."""
    keys = key[:, None]
    for number in range(ROUNDS):
        keys = keys + STEPS if number else keys
        products = MULTIPLIERS * counters[::2]
        high, low = (products >> np.uint64(32)).astype(np.uint32), products.astype(np.uint32)
        counters = np.stack([high[1] ^ counters[1] ^ keys[0], low[1], high[0] ^ counters[3] ^ keys[1], low[0]])
    return counters


def uniforms(
    key: str, rows: Int[np.ndarray, " n"], epoch: int | Int[np.ndarray, " n"], count: int
) -> Float[np.ndarray, "n {count}"]:
    """Random numbers between 0 and 1, neither of which occurs.

    Args:
        key: what they are for, such as a seed and a name; other keys give independent numbers.
        rows: of a dataset, fewer than 2^32.
        epoch: the pass over the rows, below 2^32; of all of them, or of each.
        count: how many numbers a row has. With a larger count the first ones stay the same.
    """
    blocks = -(-count // 4)
    counters = np.zeros((4, len(rows), blocks), np.uint32)
    counters[0], counters[1], counters[2] = rows[:, None], np.reshape(epoch, (-1, 1)), np.arange(blocks)
    words = philox(counters.reshape(4, -1), np.frombuffer(blake2b(key.encode(), digest_size=8).digest(), "<u4"))
    of_rows = words.reshape(4, len(rows), blocks).transpose(1, 2, 0).reshape(len(rows), 4 * blocks)
    return (of_rows[:, :count] + 0.5) / 2.0**32
