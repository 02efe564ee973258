"""Earlier features of the same rows: what a store held before its rows, heads or recipe changed."""

import json
import re
from functools import cached_property

import numpy as np

from pipeline.checksum import checksum
from pipeline.errors import UserError
from pipeline.store.backends import Backend, WritableBackend
from pipeline.store.format import LOCKS, MOVED, REPLACED, STORE_FILE, Layout, Marker, marker_name, written
from pipeline.store.rows import RowIndex, read_rows
from pipeline.store.shards import Damaged, load, marker, resolved_codec

REPLACED_STORE = re.compile(rf"{REPLACED}/[0-9]{{1,9}}/zarr\.json")


class Earlier:
    """A store that was replaced, as a source of rows.

    Args:
        root: the store that is being written.
        folder: the replaced store's folder in it.
        wanted: the layout being written; only heads of the same identity are offered.
        rows: the rows being written now.
    """

    def __init__(self, root: WritableBackend, folder: str, wanted: Layout, rows: RowIndex):
        self._root, self._folder = root, folder
        self._store = root.below(folder)
        self.layout = Layout.read(self._store.read("zarr.json") or b"", f"{self._store.name}/zarr.json")
        self.heads = [
            head for head in self.layout.heads
            if head in wanted.heads and self.layout.identity(head) == wanted.identity(head)
        ]  # fmt: skip
        self._rows = rows
        self._codecs = {head: resolved_codec(self._store, self.layout, head) for head in self.heads}
        self._checked: set[tuple[str, int]] = set()

    @cached_property
    def positions(self) -> np.ndarray:
        """Positions here of the rows being written, -1 for those that are missing; int64 [rows]."""
        if self._rows.digest() == self.layout.rows_digest:
            return np.arange(len(self._rows))
        return read_rows(self._store, self.layout).locate(self._rows)

    def available(self, head: str, start: int, stop: int) -> np.ndarray:
        """Which of the rows start .. stop - 1 are here with features of a head; bool [stop - start]."""
        if head not in self.heads or self._codecs[head] is None:
            return np.zeros(stop - start, bool)
        where = self.positions[start:stop]
        shard = where // self.layout.shard_rows
        good = [number for number in np.unique(shard[where >= 0]).tolist() if self._sound(head, number)]
        return (where >= 0) & np.isin(shard, good)

    def take(self, head: str, start: int, keep: np.ndarray, out: dict[str, np.ndarray]) -> None:
        """Copy stored features of a head into `out`, whose first row is row `start`, where `keep` [len(out)]."""
        where = self.positions[start : start + len(keep)]
        shards = where // self.layout.shard_rows
        for array, grid in self.layout.grids(head, self._codecs[head] or "raw").items():
            for shard in np.unique(shards[keep]).tolist():
                here = keep & (shards == shard)
                out[array][here] = load(self._store, array, grid, shard)[where[here] - shard * self.layout.shard_rows]

    def adopt(self, head: str, shard: int, wanted: Layout, rows_digest: str) -> bool:
        """Give the new store a whole shard of this one, if it holds exactly the wanted rows."""
        if head not in self.heads or self.layout.shard_rows != wanted.shard_rows:
            return False
        codec = self._codecs[head]
        if codec is None or codec != resolved_codec(self._root, wanted, head) or not self._sound(head, shard):
            return False
        mark = Marker.read(self._store.read(f"{head}/{marker_name(shard)}") or b"")
        if mark.rows_digest != rows_digest or self.layout.span(shard) != wanted.span(shard):
            return False
        for array, grid in self.layout.grids(head, codec).items():
            file = f"{array}/{grid.key(shard)}"
            self._root.copy(f"{self._folder}/{file}", file)
        self._root.put(f"{head}/{marker_name(shard)}", [mark.text()])
        return True

    def _sound(self, head: str, shard: int) -> bool:
        """Whether a shard is complete and undamaged: a flipped bit must not be copied and get a new checksum."""
        if (head, shard) in self._checked:
            return True
        if shard >= self.layout.shards:
            return False
        try:
            found = marker(self._store, self.layout, head, shard)
        except Damaged:
            return False
        if found is None:
            return False
        for array, grid in self.layout.grids(head, "raw").items():
            if checksum(self._store.blocks(f"{array}/{grid.key(shard)}")) != found.files[array]["checksum"]:
                return False
        self._checked.add((head, shard))
        return True


def refuse_other_files(store: WritableBackend) -> None:
    """A new store must not take over a folder that holds something else.

    Raises:
        UserError: there is no store, and there are files that are not of one.
    """
    if store.size("zarr.json") is not None or replaced_folders(store):
        return
    arrays = _unfinished_arrays(store)
    for file in store.files():
        folder, _, name = file.partition("/")
        ours = folder in arrays or (STORE_FILE.fullmatch(file) and (not name or folder == LOCKS))
        if not ours and not file.startswith("."):
            raise UserError(f"{store.name}: holds other files, such as {file}; choose a new or empty folder")


def earlier_stores(store: WritableBackend, wanted: Layout, rows: RowIndex) -> list[Earlier]:
    """The replaced stores in a store, the last one first; without one whose move was interrupted and undone."""
    folders = [folder for folder in replaced_folders(store) if store.size(f"{folder}/{MOVED}") is not None]
    return [Earlier(store, folder, wanted, rows) for folder in folders]


def set_aside(store: WritableBackend) -> None:
    """Move everything in a store into a new folder of `replaced`; an interrupted move can be completed."""
    folder = f"{REPLACED}/{max(map(_number, replaced_folders(store)), default=0) + 1}"
    # From here on the store has no metadata, and `recover` finishes the move if this process ends.
    store.move("zarr.json", f"{folder}/zarr.json")
    recover(store)


def recover(store: WritableBackend) -> None:
    """Clean up after an interrupted change of layout.

    Arrays of a store without metadata belong to the last replaced store, until all of its arrays have moved there.
    Later ones belong to a layout that was never completed.
    """
    if store.size("zarr.json") is not None:
        return
    last = next(iter(replaced_folders(store)), None)
    if last is not None and store.size(f"{last}/{MOVED}") is None:
        layout = Layout.read(store.read(f"{last}/zarr.json") or b"", f"{store.name}/{last}/zarr.json")
        for array in ["rows", *(array for name, head in layout.heads.items() for array in head.arrays(name))]:
            store.move(array, f"{last}/{array}")
        store.put(f"{last}/{MOVED}", [])
        return
    for array in _unfinished_arrays(store):
        store.delete(array)


def replaced_folders(store: Backend) -> list[str]:
    """The folders of replaced stores, the last one first."""
    found = [file.removesuffix("/zarr.json") for file in store.files(REPLACED) if REPLACED_STORE.fullmatch(file)]
    return sorted(found, key=_number, reverse=True)


def _number(folder: str) -> int:
    return int(folder.rpartition("/")[2])


def _unfinished_arrays(store: Backend) -> set[str]:
    """Folders that a writer of stores has made: by the names of all their files, and by the form of their metadata."""
    folders: dict[str, list[str]] = {}
    for file in store.files():
        if "/" in file and not file.startswith((f"{REPLACED}/", f"{LOCKS}/")):
            folders.setdefault(file.partition("/")[0], []).append(file)
    return {
        folder
        for folder, files in folders.items()
        if all(STORE_FILE.fullmatch(file) and _is_written_here(store, file) for file in files)
    }


def _is_written_here(store: Backend, file: str) -> bool:
    """Whether a zarr.json has the form that this package writes; true for other files."""
    if not file.endswith("/zarr.json"):
        return True
    try:
        text = store.read(file) or b""
        return written(json.loads(text)) == text
    except (ValueError, AttributeError, RecursionError, UserError):
        return False
