"""Shards as files: their bytes, and checks that they are complete."""

from collections.abc import Sequence

import numpy as np

from pipeline.checksum import checksum
from pipeline.errors import UserError
from pipeline.store.backends import Backend, WritableBackend
from pipeline.store.format import Grid, Layout, Marker, marker_name

# The codec `auto` compresses if the result is at most this share of the size.
WORTHWHILE = 0.5
REMEDY = "delete this file and run the extraction again; it writes the shard again"


class Damaged(ValueError):
    """A shard contradicts its marker, or a marker the layout. `file` is the wrong one."""

    def __init__(self, file: str, what: str):
        super().__init__(what)
        self.file = file


def pack(grid: Grid, shard: int, values: np.ndarray) -> Sequence[bytes | memoryview]:
    """The bytes of a shard's file, in parts.

    Args:
        values: the shard's rows, C-contiguous, little-endian [stop - start, *row_shape].
    """
    if grid.codec == "zstd":
        return [_through_zarr(grid, values)]
    # Chunks of a raw shard are whole rows, one after another: the shard is the array's own memory.
    padding = bytes(grid.data_bytes(shard) - values.nbytes)
    return [values.reshape(-1).data, padding, grid.shard_index(shard)]


def size_of(parts: Sequence[bytes | memoryview]) -> int:
    """Total bytes of the parts."""
    return sum(memoryview(part).nbytes for part in parts)


def unpack(grid: Grid, shard: int, data: bytes | np.ndarray) -> np.ndarray:
    """The rows of a shard [stop - start, *row_shape], from the bytes of its file; raw ones are views of `data`.

    Raises:
        ValueError: these are not the bytes of such a shard.
    """
    start, stop = grid.span(shard)
    if grid.codec == "zstd":
        return _out_of_zarr(grid, bytes(data))[: stop - start]
    rows = np.frombuffer(data, grid.dtype, count=(stop - start) * grid.row_bytes // np.dtype(grid.dtype).itemsize)
    return rows.reshape(stop - start, *grid.row_shape)


def unpacked(store: Backend, grid: Grid, array: str, shard: int, data: bytes) -> np.ndarray:
    """As `unpack`. Raises `UserError` if these are not the bytes of such a shard."""
    try:
        return unpack(grid, shard, data)
    except ValueError as error:
        raise UserError(f"{store.name}/{array}/{grid.key(shard)}: {error}; {REMEDY}") from None


def load(store: Backend, array: str, grid: Grid, shard: int) -> np.ndarray:
    """The rows of a shard of an array; raw shards are mapped read-only if possible.

    Raises:
        ValueError: it does not exist, or these are not the bytes of such a shard.
    """
    file = f"{array}/{grid.key(shard)}"
    if grid.codec == "raw" and store.folder is not None:
        return unpack(grid, shard, np.memmap(store.folder / file, np.uint8, "r"))
    return unpack(grid, shard, store.read(file) or b"")


def resolved_codec(store: Backend, layout: Layout, head: str) -> str | None:
    """The codec of a head's array, according to its zarr.json; None if there is no zarr.json yet.

    Raises:
        UserError: the zarr.json is not one that this layout can have.
    """
    for array in layout.heads[head].arrays(head):
        text = store.read(f"{array}/zarr.json")
        if text is None:
            return None
        codecs = [codec for codec in ("raw", "zstd") if layout.grids(head, codec)[array].metadata() == text]
        if not codecs:
            raise UserError(f"{store.name}/{array}/zarr.json: damaged or changed by hand; restore it or extract again")
        if array == head:
            codec = codecs[0]
    return codec


def resolve_codec(store: WritableBackend, layout: Layout, head: str, sample: np.ndarray) -> str:
    """Write the zarr.json of a head whose codec is `auto`, once for all processes, and return the codec.

    It is zstd if that at least halves the sample's bytes. The first process decides; others read its choice.
    """
    packed = size_of(pack(layout.grids(head, "zstd")[head], 0, sample))
    codec = "zstd" if packed <= WORTHWHILE * sample.nbytes else "raw"
    # The head's main array comes last: its zarr.json means that all are written.
    for array, grid in reversed(layout.grids(head, codec).items()):
        store.put_new(f"{array}/zarr.json", [grid.metadata()])
    return resolved_codec(store, layout, head) or codec


def checked(store: Backend, layout: Layout, head: str, array: str, shard: int, compare: bool = True) -> bytes:
    """The bytes of a shard's file, compared with its marker: its size at least, and with `compare` its checksum.

    Raises:
        UserError: they are not what was written.
    """
    start, stop = layout.span(shard)
    name = f"{array}/{layout.grids(head, 'raw')[array].key(shard)}"
    where = f"{store.name}: {name} (rows {start}-{stop - 1})"
    try:
        found = marker(store, layout, head, shard)
    except Damaged as error:
        raise UserError(f"{where}: {error}; {REMEDY}") from None
    data = None if found is None else store.read(name)
    if found is None or data is None or (compare and checksum([data]) != found.files[array]["checksum"]):
        raise UserError(f"{where}: damaged; {REMEDY}")
    return data


def marker(store: Backend, layout: Layout, head: str, shard: int) -> Marker | None:
    """The marker of a shard, if the shard is valid: its files have the right sizes, recipe and rows.

    Contents are not read and digests of rows not compared; `pipeline.store.verification` does that.

    Raises:
        Damaged: there is a marker that contradicts the layout or the files.
    """
    name = f"{head}/{marker_name(shard)}"
    text = store.read(name)
    if text is None:
        return None
    try:
        found = Marker.read(text)
    except ValueError:
        raise Damaged(name, "the marker is damaged or was changed by hand") from None
    if (found.start, found.stop) != layout.span(shard):
        raise Damaged(name, f"marker of rows {found.start}-{found.stop - 1}")
    if found.identity != layout.identity(head):
        raise Damaged(name, "marker of another recipe")
    if found.files.keys() != layout.heads[head].arrays(head).keys():
        raise Damaged(name, "marker of other arrays")
    for array, grid in layout.grids(head, "raw").items():
        file, size = f"{array}/{grid.key(shard)}", found.files[array]["bytes"]
        if not 0 <= size <= grid.most_bytes:
            raise Damaged(name, f"marker of a file of {size:,} bytes, where rows have {grid.most_bytes:,} at most")
        there = store.size(file)
        if there is None:
            raise Damaged(file, f"{file} is missing")
        if there != size:
            raise Damaged(file, f"{file} has {there:,} of {size:,} bytes")
    return found


def _through_zarr(grid: Grid, values: np.ndarray) -> bytes:
    """A shard encoded by Zarr."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype

    whole = Grid(grid.shard_rows, grid.shard_rows, grid.row_shape, grid.dtype, grid.codec)
    memory = {"zarr.json": default_buffer_prototype().buffer.from_bytes(whole.metadata())}
    array = zarr.open_array(memory, mode="r+", config={"write_empty_chunks": True})
    padded = np.zeros((grid.shard_rows, *grid.row_shape), grid.dtype)
    padded[: len(values)] = values
    array[...] = padded
    return memory[grid.key(0)].to_bytes()


def _out_of_zarr(grid: Grid, data: bytes) -> np.ndarray:
    """Decode a shard. Raises `ValueError` if it is not one, or would become larger than one."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype

    buffer = default_buffer_prototype().buffer
    _check_frames(grid, data)
    whole = Grid(grid.shard_rows, grid.shard_rows, grid.row_shape, grid.dtype, grid.codec)
    memory = {"zarr.json": buffer.from_bytes(whole.metadata()), grid.key(0): buffer.from_bytes(data)}
    try:
        return np.asarray(zarr.open_array(memory, mode="r")[...])
    except Exception as error:  # zarr and its codecs raise any kind of error
        raise ValueError(f"no shard of this array: {error}") from None


def _check_frames(grid: Grid, data: bytes) -> None:
    """Make sure that each frame claims the size of a chunk, because zstd allocates the size that a frame claims."""
    chunks, size = grid.shard_rows // grid.chunk_rows, grid.chunk_rows * grid.row_bytes
    if len(data) < grid.index_bytes:
        raise ValueError("too short for a shard")
    index = np.frombuffer(data, "<u8", 2 * chunks, len(data) - grid.index_bytes).reshape(-1, 2)
    for offset, length in index[(index != 2**64 - 1).all(axis=1)].tolist():
        frame = data[offset : offset + length]
        if offset + length > len(data) or _frame_bytes(frame) != size:
            raise ValueError("a chunk of another size")


def _frame_bytes(frame: bytes) -> int | None:
    """The size that a zstd frame says its content has (RFC 8878, 3.1.1.1); None if it does not say."""
    if frame[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = frame[4]
    single, width = bool(flags & 0x20), (0, 2, 4, 8)[flags >> 6]
    width = width or int(single)
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(frame[start : start + width], "little")
    return (size + 256 if width == 2 else size) if width else None
