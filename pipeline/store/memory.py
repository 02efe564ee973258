"""Memory: how much this process may still use, and page-aligned arrays."""

import math
import os
from pathlib import Path

import numpy as np

PAGE = 4096


def page_aligned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An uninitialised array that begins at a page, so that it can be written to disk without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE
    return memory[start : start + size].view(dtype).reshape(shape)


def available_memory() -> int:
    """Bytes that are free or only cache files, within the limits of the machine and of the control group."""
    group = Path("/sys/fs/cgroup")
    limit, used = _read(group / "memory.max"), _read(group / "memory.current")
    limits = [_machine()]
    if limit.isdigit() and used.isdigit():
        stat = dict(line.split() for line in _read(group / "memory.stat").splitlines())
        limits.append(int(limit) - int(used) + int(stat.get("file", 0)))
    return max(0, min(limits))


def _machine() -> int:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    # Not Linux: all memory, so mapping is preferred to copying.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
