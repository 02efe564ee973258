"""Earlier features of the same rows: what a store held before its rows, heads or recipe changed."""

from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.files import make_folder
from pipeline.store.checksum import file_checksum
from pipeline.store.disk import link, move, publish, remove_folder
from pipeline.store.folder import LocalFolder
from pipeline.store.format import Layout, Marker, marker_name
from pipeline.store.rows import RowIndex, read_rows
from pipeline.store.shards import Damaged, load, marker, settled

REPLACED = "replaced"
LOCKS = "locks"


class Earlier:
    """A store that was set aside, as a source of rows.

    Args:
        path: its folder.
        wanted: what is being written now; only heads of the same identity are offered.
        rows: the rows being written now.
    """

    def __init__(self, path: Path, wanted: Layout, rows: RowIndex):
        self.path = path
        self.layout = Layout.read((path / "zarr.json").read_bytes(), str(path / "zarr.json"))
        self.heads = [
            head for head in self.layout.heads
            if head in wanted.heads and self.layout.identity(head) == wanted.identity(head)
        ]  # fmt: skip
        self._rows = rows
        self._codecs = {head: settled(LocalFolder(path), self.layout, head) for head in self.heads}
        self._checked: set[tuple[str, int]] = set()

    @cached_property
    def positions(self) -> np.ndarray:
        """Where the rows being written stand here, -1 where they do not; int64 [rows]."""
        if self._rows.digest() == self.layout.rows_digest:
            return np.arange(len(self._rows))
        return read_rows(LocalFolder(self.path), self.layout).locate(self._rows)

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
                out[array][here] = load(self.path / array, grid, shard)[where[here] - shard * self.layout.shard_rows]

    def adopt(self, head: str, shard: int, target: Path, wanted: Layout, rows_digest: str) -> bool:
        """Give the new store a whole shard of this one as it is, if it holds just the rows wanted: link, not copy."""
        if head not in self.heads or self.layout.shard_rows != wanted.shard_rows:
            return False
        codec = self._codecs[head]
        if codec is None or codec != settled(LocalFolder(target), wanted, head) or not self._sound(head, shard):
            return False
        text = (self.path / head / marker_name(shard)).read_bytes()
        if Marker.read(text).rows_digest != rows_digest or self.layout.span(shard) != wanted.span(shard):
            return False
        for array, grid in self.layout.grids(head, codec).items():
            link(self.path / array / grid.key(shard), target / array / grid.key(shard))
        publish(target / head / marker_name(shard), [text])
        return True

    def _sound(self, head: str, shard: int) -> bool:
        """Whether a shard is complete and holds what was once written: copying must not launder a flipped bit."""
        if (head, shard) in self._checked:
            return True
        if shard >= self.layout.shards:
            return False
        try:
            found = marker(LocalFolder(self.path), self.layout, head, shard)
        except Damaged:
            return False
        if found is None:
            return False
        for array, grid in self.layout.grids(head, "raw").items():
            if file_checksum(self.path / array / grid.key(shard)) != found.files[array]["checksum"]:
                return False
        self._checked.add((head, shard))
        return True


def set_aside(store: Path) -> None:
    """Move what a store holds into a new folder of `replaced`, whatever happens in between."""
    folder = store / REPLACED
    taken = [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()] if folder.is_dir() else []
    target = folder / str(max(taken, default=0) + 1)
    make_folder(target)
    # From here on the store has no metadata, and `recover` finishes what remains, should we end here.
    move(store / "zarr.json", target / "zarr.json")
    recover(store)


def recover(store: Path) -> None:
    """Tidy up after a change of layout that was cut short: without metadata, the store's arrays are leftovers.

    Those that the last replaced store lacks belong there; the others are of a layout that never came to be.
    """
    if (store / "zarr.json").exists():
        return
    replaced = earlier_folders(store)
    lost: set[str] = set()
    if replaced:
        layout = Layout.read((replaced[0] / "zarr.json").read_bytes(), str(replaced[0] / "zarr.json"))
        arrays = {array for name, head in layout.heads.items() for array in head.arrays(name)}
        lost = {name for name in {"rows", *arrays} if not (replaced[0] / name).exists()}
    for entry in store.iterdir():
        if entry.name in lost:
            move(entry, replaced[0] / entry.name)
        elif entry.is_dir() and entry.name not in (REPLACED, LOCKS) and (entry / "zarr.json").exists():
            remove_folder(entry)


def earlier_folders(store: Path) -> list[Path]:
    """The folders of replaced stores, the last one first."""
    folder = store / REPLACED
    found = [entry for entry in folder.iterdir() if (entry / "zarr.json").exists()] if folder.is_dir() else []
    return sorted(found, key=lambda entry: int(entry.name), reverse=True)
