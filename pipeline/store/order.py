"""The order of rows in an epoch: shuffled as a whole, or in windows that the disk can read sequentially."""

from collections.abc import Callable, Iterator

import numpy as np

BLOCK_BYTES = 1 << 20


def rows_of_block(row_bytes: int, shard_rows: int) -> int:
    """How many consecutive rows a window has of one place."""
    return max(1, min(BLOCK_BYTES // row_bytes, shard_rows))


def shuffled(rows: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """One window with all rows, uniformly shuffled."""
    yield np.random.default_rng(seed).permutation(rows)


def windows(
    rows: np.ndarray,
    seed: int,
    row_bytes: int,
    shard_rows: int,
    window_bytes: int,
    read_ahead: Callable[[np.ndarray, int], None],
) -> Iterator[np.ndarray]:
    """Rows in windows: as many random blocks of consecutive rows as fit a window, with their rows shuffled.

    The next window's blocks are read while this one's rows are used, so the disk only sees long sequential reads, and a
    batch mixes rows of all blocks of a window.

    Args:
        rows: the rows to visit, in any order [n].
        read_ahead: called in a thread with the first rows of a window's blocks, and the number of rows of a block.
    """
    from concurrent.futures import ThreadPoolExecutor

    random = np.random.default_rng(seed)
    block_rows = rows_of_block(row_bytes, shard_rows)
    per_shard = -(-shard_rows // block_rows)  # blocks end where their shard ends
    block = rows // shard_rows * per_shard + rows % shard_rows // block_rows
    order = np.argsort(block, kind="stable")
    names, starts = np.unique(block[order], return_index=True)
    parts = np.split(order, starts[1:])
    first_rows = names // per_shard * shard_rows + names % per_shard * block_rows
    chosen = random.permutation(len(names))
    many = max(1, window_bytes // (block_rows * row_bytes))
    groups = [np.sort(chosen[at : at + many]) for at in range(0, len(chosen), many)]
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        coming = pool.submit(read_ahead, first_rows[groups[0]], block_rows) if groups else None
        for number, group in enumerate(groups):
            assert coming is not None
            coming.result()
            if number + 1 < len(groups):
                coming = pool.submit(read_ahead, first_rows[groups[number + 1]], block_rows)
            yield random.permutation(rows[np.concatenate([parts[name] for name in group])])


def batched(parts: Iterator[np.ndarray], size: int, drop_last: bool) -> Iterator[np.ndarray]:
    """The rows of all parts, in batches of `size`, across the ends of parts."""
    left = np.zeros(0, np.int64)
    for part in parts:
        left = np.concatenate([left, part])
        whole = len(left) // size * size
        yield from left[:whole].reshape(-1, size)
        left = left[whole:]
    if len(left) and not drop_last:
        yield left
