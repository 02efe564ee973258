"""Mean and spread of features over rows that are read block by block: memory does not grow with rows."""

from collections.abc import Callable

import numpy as np

BLOCK = 8192
"""Rows read at a time."""


def statistics(rows: np.ndarray, reader: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
    """Per feature mean and standard deviation (never 0), and the mean norm of a standardised row, over `rows`."""
    blocks = [rows[a : a + BLOCK] for a in range(0, len(rows), BLOCK)]
    mean = sum(reader(block).astype(np.float64).sum(0) for block in blocks) / len(rows)
    variance = sum(np.square(reader(block).astype(np.float64) - mean).sum(0) for block in blocks) / len(rows)
    std = np.sqrt(variance)
    std[std < 1e-6 * max(std.max(), 1e-12)] = 1.0  # a constant feature stays constant instead of becoming noise
    norm = sum(np.linalg.norm((reader(block) - mean) / std, axis=1).sum() for block in blocks) / len(rows)
    return mean.astype(np.float32), std.astype(np.float32), float(norm)
