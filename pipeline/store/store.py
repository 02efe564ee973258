"""Opening a store: its metadata, its row index, and its rows."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError, count
from pipeline.ids import Ids
from pipeline.provenance import digest_of
from pipeline.store.backends import Backend, backend_at
from pipeline.store.choice import choose
from pipeline.store.format import Head, Layout, Marker
from pipeline.store.reader import Mode, Reader
from pipeline.store.remote import Pointer
from pipeline.store.rows import RowIndex, claim_of_rows, read_rows
from pipeline.store.shards import Damaged, marker
from pipeline.store.values import decode, encode


class FeatureStore:
    """Features of a dataset's rows, written by `StoreWriter` and opened for reading.

    >>> store = FeatureStore.open("features/minilm.zarr")
    >>> store[[0, 5, 7]].shape
    (3, 384)

    Attributes:
        path: the store's folder, or its URL.
        heads: the complete heads, by name.
        incomplete: heads that are not complete, with how many of their shards are there.
        recipe, recipe_digest: everything that determines a feature's value except the row, the head and its view.
        dataset: digest of the dataset that the rows are from.
        created_by: versions of libraries.
    """

    def __init__(
        self, backend: Backend, layout: Layout, markers: Mapping[str, Sequence[Marker]], incomplete: dict[str, int]
    ):
        self.path = backend.name
        self._backend = backend
        self.layout = layout
        self.heads: dict[str, Head] = {name: layout.heads[name] for name in markers}
        self.incomplete = incomplete
        self.recipe: Mapping[str, Any] = layout.recipe
        self.recipe_digest = layout.recipe_digest
        self.dataset = layout.dataset
        self.created_by = layout.created_by
        self._markers = markers

    @classmethod
    def open(cls, place: str | Path | Backend) -> "FeatureStore":
        """Open a store, after checking its metadata and that every shard has its marker and its size.

        Args:
            place: a folder, or a URL such as s3://bucket/minilm.zarr; or a backend.

        Raises:
            UserError: there is no store, its metadata is damaged, or no head of it is complete.
        """
        backend = backend_at(place).snapshot()
        path = backend.name
        text = backend.read("zarr.json")
        if text is None:
            raise UserError(f"{path}: no feature store there; {_remedy(path)}")
        layout = Layout.read(text, f"{path}/zarr.json")
        claim_of_rows(backend, layout)
        complete, incomplete = {}, {}
        for head in layout.heads:
            found = []
            for shard in range(layout.shards):
                try:
                    found.append(marker(backend, layout, head, shard))
                except Damaged as error:
                    start, stop = layout.span(shard)
                    raise UserError(
                        f"{path}: head `{head}`, shard {shard} (rows {start}-{stop - 1}): {error}; "
                        "run the extraction again; it writes that shard again"
                    ) from None
            whole = [mark for mark in found if mark is not None]
            if len(whole) == layout.shards:
                complete[head] = whole
            else:
                incomplete[head] = len(whole)
        if not complete:
            there = max(incomplete.values())
            state = f"not complete, {there} of {count(layout.shards, 'shard')} are there"
            raise UserError(f"{path}: {state}; run the extraction again; it continues")
        opened = cls(backend, layout, complete, incomplete)
        pointer = None if isinstance(place, Backend) or "://" in str(place) else Pointer.of(Path(place))
        if pointer is not None and pointer.content not in (None, opened.content_digest):
            raise UserError(
                f"{place}: {path} does not hold the features that this project extracted; run the extraction again"
            )
        return opened

    def __len__(self) -> int:
        return self.layout.rows

    def __repr__(self) -> str:
        heads = ", ".join(f"{name} {head.shape} {head.dtype}" for name, head in self.heads.items())
        return f"FeatureStore({str(self.path)!r}: {count(len(self), 'row')}; {heads})"

    @cached_property
    def rows(self) -> RowIndex:
        """Ids and content digests of the rows, in order."""
        return read_rows(self._backend, self.layout)

    @property
    def ids(self) -> Ids:
        """The rows' ids, read as they are needed."""
        return self.rows.ids

    @property
    def nbytes(self) -> int:
        """Bytes of all complete heads on disk."""
        return sum(map(self.head_nbytes, self.heads))

    def head_nbytes(self, head: str) -> int:
        """Bytes of one head on disk."""
        marks = self._markers[self.head_name(head)]
        return sum(file["bytes"] for mark in marks for file in mark.files.values())

    @property
    def content_digest(self) -> str:
        """A digest of features, row ids, row contents and the recipe; versions of libraries do not affect it."""
        heads = {name: self.head_digest(name) for name in self.heads}
        return digest_of({"rows": self.layout.rows_digest, "heads": heads})

    def as_stored(self, values: np.ndarray, head: str) -> np.ndarray:
        """Fresh values of a head [n, *shape] as reading would give them, after what storing does to them."""
        return decode(encode(values, head, self.heads[head]), head, self.heads[head])

    def head_digest(self, head: str) -> str:
        """The digest for one head; adding other heads does not change it."""
        self.head_name(head)
        files = [{name: file["checksum"] for name, file in mark.files.items()} for mark in self._markers[head]]
        return digest_of({"rows": self.layout.rows_digest, "identity": self.layout.identity(head), "files": files})

    def check(self, dataset: str | None = None, ids: Sequence[str] | np.ndarray | None = None) -> None:
        """Make sure that this store holds this dataset and these rows.

        Raises:
            UserError: it is not; the message names the first row that differs.
        """
        if dataset is not None and dataset != self.dataset:
            raise UserError(
                f"{self.path}: features of another dataset ({self.dataset[:8]}, not {dataset[:8]}); extract again"
            )
        if ids is not None and (row := self.rows.ids.first_difference(ids)) is not None:
            ours = repr(self.rows.ids[row]) if row < len(self) else f"the end after {count(len(self), 'row')}"
            theirs = repr(str(ids[row])) if row < len(ids) else f"the end after {count(len(ids), 'row')}"
            raise UserError(
                f"{self.path}: features of other rows: row {row} is {ours}, expected {theirs}; extract again"
            )

    def reader(
        self,
        head: str | None = None,
        *,
        mode: Mode = "auto",
        memory: int | None = None,
        window: int | None = None,
        cache: str | Path | None = None,
        device: str | None = None,
        device_memory: int | None = None,
    ) -> Reader:
        """A reader of one head. Its attribute `why` gives the mode and the reason for it.

        In the modes `resident`, `device` and `cache`, rows are compared with their checksums before this returns. In
        the modes `mapped` and `window`, `Reader.verified` does that.

        - `device`: all rows on a GPU, as tensors. Chosen if a `device` is given and the rows fit `device_memory`.
        - `mapped`: directly from the files' pages. Chosen for local, uncompressed shards.
        - `window`: the same, with epochs that read the disk sequentially. Chosen if they exceed the free memory.
          Rows of remote shards are fetched as they are needed; chosen if they exceed the free disk.
        - `resident`: all rows in memory. Chosen for compressed or remote shards that fit `memory`.
        - `cache`: mapped from a raw copy on the local disk, made in one pass. Chosen for larger ones, and for remote
          ones of which there is a copy already.

        Args:
            head: its name; the store's only head, or `pooled`, if None.
            mode: one of the above, or `auto`.
            memory: bytes that `resident` may use; a quarter of the free memory if None.
            window: bytes of a window, 256 MiB if None.
            cache: folder of raw copies; $AFT_CACHE, or `aft` in the user's cache folder, if None.
            device: torch's name of a device for the rows, such as "cuda".
            device_memory: bytes that they may use there, 2 GiB if None.

        Raises:
            UserError: there is no such head, it is not complete or damaged, or the mode is impossible here.
        """
        name = self.head_name(head)
        return choose(
            self._backend, self.layout, name, self.head_digest(name), self._markers[name], mode=mode, memory=memory,
            window=window, cache=None if cache is None else Path(cache), device=device, device_memory=device_memory,
        )  # fmt: skip

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Rows of the only head, or of `pooled`: a number, a slice, a list of numbers or a mask.

        Returns:
            [n, *shape], or [*shape] for a single number; bfloat16 and int8 become float32.
        """
        if isinstance(rows, int | np.integer):
            return self._default(np.array([range(len(self))[rows]]))[0]
        if isinstance(rows, slice):
            return self._default(np.arange(*rows.indices(len(self))))
        rows = np.asarray(rows)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"a mask needs {count(len(self), 'row')}, found shape {rows.shape}")
            rows = np.flatnonzero(rows)
        return self._default(rows)

    @cached_property
    def _default(self) -> Reader:
        return self.reader()

    def head_name(self, head: str | None = None) -> str:
        """The name of a complete head: the one asked for, the only one, or `pooled`.

        Raises:
            UserError: there is no such head, or it is not complete.
        """
        if head is None:
            head = next(iter(self.heads)) if len(self.heads) == 1 else "pooled"
        if head in self.incomplete:
            there = f"{self.incomplete[head]} of {count(self.layout.shards, 'shard')} are there"
            raise UserError(f"{self.path}: head `{head}` is not complete, {there}; run the extraction again with it")
        if head not in self.heads:
            raise UserError(f"{self.path}: no head `{head}`; there are {', '.join(self.heads)}")
        return head


def _remedy(path: str) -> str:
    """What to do if there is no store. Stages write features/<teacher>.zarr, so the file name gives the teacher."""
    if "://" in path:
        return "check the URL"
    if path.endswith(".zarr"):
        return f"run `aft extract {Path(path).stem}` first"
    return "check the path; `aft extract NAME` writes features/NAME.zarr"
