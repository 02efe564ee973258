"""One array over all shards of a raw Zarr array: their files, mapped one after another, read-only."""

import ctypes
import math
import mmap
import os
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.files import open_regular
from pipeline.store.format import Grid, Span
from pipeline.store.shards import REMEDY

# Linux and macOS share these values, except for the two flags of the reservation.
PROT_NONE, PROT_READ, MAP_SHARED, MAP_PRIVATE, MAP_FIXED = 0, 1, 1, 2, 16
MAP_RESERVE = 0x20 | 0x4000 if sys.platform == "linux" else 0x1000 | 0x40
MADV_HUGEPAGE = 14
FAILED = ctypes.c_void_p(-1).value

READ_AHEAD = 1 << 20
HUGE_PAGE = 2 << 20
ADDRESSES = 16 << 40


class Mapping:
    """Rows of an array for a single numpy gather: `array[places(rows)]`.

    A raw shard holds its rows one after another from its first byte. So if all shards are mapped at equal distances
    that are a multiple of a row, together they form one array with a constant stride, with some unused rows between
    shards. If a shard's rows fill whole pages, there are no unused rows, and places are row numbers.

    Mapped pages belong to the page cache: all processes share them, and they do not count as memory of a process.

    Args:
        folder: the array's folder.
        grid: how the array is divided; its codec is raw.
        fits: whether the page cache can hold all of it. Then missing pages are read two megabytes at a time, as huge
            pages: a first epoch takes half as long, and later ones a fifth less.

    Raises:
        UserError: a shard's file is missing, too short, or its index is not that of a raw shard.
    """

    array: np.ndarray

    def __init__(self, folder: Path, grid: Grid, fits: bool = False):
        apart = _distance(grid)
        self._folder, self._grid = folder, grid
        self._skipped = apart // grid.row_bytes - grid.shard_rows
        region = _Region(apart * grid.shards)
        for shard in range(grid.shards):
            region.place(folder / grid.key(shard), apart * shard, grid, shard)
        if fits:
            region.ask_for_huge_pages()
        rows = apart // grid.row_bytes * grid.shards
        self.array = np.ctypeslib.as_array(region.memory).view(grid.dtype).reshape(rows, *grid.row_shape)
        self.array.flags.writeable = False

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Where rows are in `array`; int64 [n]."""
        return rows + rows // self._grid.shard_rows * self._skipped if self._skipped else rows

    def read_ahead(self, blocks: Sequence[Span]) -> None:
        """Bring blocks into the page cache, each in one sequential read.

        A plain read, because the kernel only follows advice on a mapping for the first few hundred kilobytes.
        """
        scratch = bytearray(READ_AHEAD)
        for shard, start, stop in blocks:
            with (self._folder / self._grid.key(shard)).open("rb", buffering=0) as file:
                file.seek(start * self._grid.row_bytes)
                left = (stop - start) * self._grid.row_bytes
                while left > 0 and (got := file.readinto(memoryview(scratch)[:left])):
                    left -= got


class _Region:
    """A range of reserved addresses, released when the last array over it is gone."""

    def __init__(self, size: int):
        libc = ctypes.CDLL(None, use_errno=True)
        self._mmap, unmap = libc.mmap, libc.munmap
        self._mmap.restype = ctypes.c_void_p
        self._mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_longlong]
        unmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        reserved = size + HUGE_PAGE
        start = self._mmap(None, reserved, PROT_NONE, MAP_PRIVATE | MAP_RESERVE, -1, 0)
        if start == FAILED:
            raise OSError(ctypes.get_errno(), f"cannot reserve {reserved:,} bytes of addresses")
        self._address = -(-start // HUGE_PAGE) * HUGE_PAGE
        self.memory = (ctypes.c_ubyte * size).from_address(self._address)
        weakref.finalize(self.memory, unmap, start, reserved)

    def ask_for_huge_pages(self) -> None:
        """Have missing pages read and mapped as huge pages, if the kernel and the file system can."""
        if sys.platform == "linux":
            advise = ctypes.CDLL(None).madvise
            advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
            advise(self._address, ctypes.sizeof(self.memory), MADV_HUGEPAGE)  # a refusal changes nothing

    def place(self, file: Path, offset: int, grid: Grid, shard: int) -> None:
        """Map the rows of a raw shard's file at `offset`, after checking the shard index that must follow them."""
        size = grid.data_bytes(shard)
        try:
            handle = open_regular(file)
        except FileNotFoundError:
            raise UserError(f"{file}: the shard is missing; run the extraction again; it writes the shard") from None
        try:
            # Touching a page beyond the end of a file kills the process, so check the size before mapping.
            whole = os.fstat(handle).st_size == size + grid.index_bytes
            if not whole or os.pread(handle, grid.index_bytes, size) != grid.shard_index(shard):
                raise UserError(f"{file}: the shard is damaged; {REMEDY}")
            flags = MAP_SHARED | MAP_FIXED
            if self._mmap(self._address + offset, size, PROT_READ, flags, handle, 0) != self._address + offset:
                raise OSError(ctypes.get_errno(), f"{file}: cannot be mapped")
        finally:
            os.close(handle)


def _distance(grid: Grid) -> int:
    """Bytes between mapped shards: the smallest multiple of a page and of a row that a shard fits in.

    A multiple of a huge page, if there are enough addresses: then huge pages can be used, and finding a random row
    takes one lookup in the page tables instead of two or three.
    """
    for page in (HUGE_PAGE, mmap.ALLOCATIONGRANULARITY):
        step = math.lcm(page, grid.row_bytes)
        distance = -(-grid.data_bytes(0) // step) * step
        if distance * grid.shards <= ADDRESSES:
            break
    return distance
