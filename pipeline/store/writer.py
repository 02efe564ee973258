"""Writing a store: shard by shard, each by one writer and durable, from any number of processes."""

import json
import queue
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import numpy as np

from pipeline.errors import UserError, count
from pipeline.files import PARTIAL
from pipeline.provenance import digest_of
from pipeline.store.backends import Backend, Claim, WritableBackend, backend_at
from pipeline.store.changes import differences
from pipeline.store.format import (
    LOCKS,
    ROWS_METADATA,
    STORE_FILE,
    Dtype,
    Head,
    Layout,
    Marker,
    Shard,
    default_shard_rows,
    flat_metadata,
    is_signed,
    marker_name,
    signed,
    written,
)
from pipeline.store.memory import page_aligned
from pipeline.store.reuse import Earlier, earlier_stores, recover, refuse_other_files, replaced_folders, set_aside
from pipeline.store.rows import RowIndex
from pipeline.store.shards import Damaged, marker, pack, resolve_codec, resolved_codec, size_of
from pipeline.store.values import NotFinite, encode

# Seconds to wait for another process that sets the layout, and for one that must end before it changes.
PATIENCE = 10.0
NAMED_ROWS = 3


WIDENING: tuple[Dtype, ...] = ("float16", "bfloat16", "float32")
"""From the smallest range of values to the largest."""


class Widened(Exception):
    """A head is to be stored in a wider dtype: its writers close the store and open it again."""


def writable(place: str | Path | Backend) -> WritableBackend:
    """A place that was tried and can be written; on object storage by an object that is gone again.

    Raises:
        UserError: it cannot.
    """
    store = backend_at(place)
    if not isinstance(store, WritableBackend):
        raise UserError(f"{store.name}: stores can only be read there; write to a local folder, then copy it")
    store.prepare()
    return store


class StoreWriter:
    """Writes features of rows into a store, shard by shard, and resumes where any earlier writer stopped.

    Use it as a context manager::

        with StoreWriter.open(path, rows=rows, dataset=digest, recipe=recipe, heads={"pooled": Head((384,))}) as writer:
            for shard in writer.missing():
                writer.write(shard, {"pooled": features_of(shard.rows)})

    Several processes may do this at once on one store: each shard is handed to one of them. Leaving the block waits
    for the writes; leaving it by an exception keeps the finished shards.

    Attributes:
        notes: what was found and done, one line each, for the user.
        layout: everything about the store but its features.
        heads: to write: those asked for, and others for which all rows are known from earlier features.
    """

    notes: list[str]
    layout: Layout
    heads: tuple[str, ...]

    def __init__(
        self,
        store: WritableBackend,
        rows: RowIndex,
        layout: Layout,
        heads: tuple[str, ...],
        notes: list[str],
        life: Claim,
        earlier: list[Earlier],
    ):
        self.path = store.name
        self._store = store
        self.layout = layout
        self.notes = notes
        self._rows = rows
        self.heads = heads
        self._life = life
        self._earlier = earlier
        self._witness: tuple[str, Claim] | None = None
        self._claims: dict[int, Claim] = {}
        self._complete: set[tuple[str, int]] = set()
        self._unwritten: set[int] = set()
        self._claims_guard = threading.Lock()
        self._queue: queue.Queue[tuple[int, dict[str, dict[str, np.ndarray]]] | None] = queue.Queue(1)
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def open(
        cls,
        place: str | Path | Backend,
        *,
        rows: RowIndex,
        dataset: str,
        recipe: Mapping[str, Any],
        heads: Mapping[str, Head],
        shard_rows: int | None = None,
        created_by: Mapping[str, Any] | None = None,
    ) -> "StoreWriter":
        """Open a store for writing: create it, continue it, or replace it; `notes` say which.

        A store with another recipe is set aside and started again. With the same recipe, features of rows that are
        still in the dataset, by id and content, are reused; heads that the store lacks are added alongside the others.
        Replaced features are deleted when the new store is complete.

        Args:
            place: the store's folder; or a backend.
            rows: the rows to hold, in order.
            dataset: digest of the dataset they are from.
            recipe: JSON; everything that determines a feature's value except the row, the head and its view. The
                dataset and the list of heads are not part of it: features stay valid if they change.
            heads: the heads to write, by name.
            shard_rows: rows of a shard; by default at least eight shards, of at most 256 MiB.
            created_by: versions of libraries, for people.

        Raises:
            UserError: the folder cannot be written or holds other files, its metadata is damaged, or another process is
                writing it with other settings.
        """
        path = backend_at(place).name
        if not heads:
            raise UserError(f"{path}: a store needs at least one head")
        if shard_rows is not None and shard_rows < 1:
            raise UserError(f"{path}: shard_rows must be at least 1, found {shard_rows}")
        store = writable(place)
        refuse_other_files(store)
        wanted = Layout(
            rows=len(rows),
            rows_digest=rows.digest(),
            dataset=dataset,
            recipe=json.loads(json.dumps(recipe)),
            shard_rows=shard_rows or default_shard_rows(len(rows), max(head.row_bytes for head in heads.values())),
            heads={name: Head.read(json.loads(json.dumps(head.record()))) for name, head in heads.items()},
            created_by=json.loads(json.dumps(created_by or {})),
        )
        # Where a dtype became wider, the others end as soon as they have finished their shard.
        wider = any(_wider(store, wanted, name) for name in heads)
        setup, life = store.claim("setup"), store.claim("writers")
        patience = float("inf") if wider else PATIENCE + life.lingers
        # Hundreds of processes may begin together, and set it up one after the other.
        if not setup.acquire(patience=10 * patience):
            raise UserError(f"{path}: {setup.owner()} has been setting it up for a long time; wait for it or stop it")
        try:
            recover(store)
            text = store.read("zarr.json")
            current = None if text is None else Layout.read(text, f"{path}/zarr.json")
            layout, notes, replaces = _resolve(current, _widened(store, current, wanted), shard_rows is not None)
            if replaces and not life.acquire(patience=patience):
                raise UserError(f"{path}: {life.owner()} is writing it with other settings; wait for it or stop it")
            if replaces and current is not None:
                set_aside(store)
            earlier = earlier_stores(store, layout, rows)
            extra = {name for name in layout.heads if name not in heads}
            carried = {name for name in extra if any(e.available(name, 0, len(rows)).all() for e in earlier)}
            if replaces:
                for name in sorted(extra - carried):
                    notes.append(f"head `{name}` is not asked for and lacks some of these rows: dropped")
                left = {name: head for name, head in layout.heads.items() if name not in extra - carried}
                layout = replace(layout, heads=left)
                _create(store, layout, layout.heads, _row_files(rows))
            elif current is not None and layout != current:
                _create(store, layout, layout.heads.keys() - current.heads.keys(), {})
            life.acquire(exclusive=False)
            writer = cls(store, rows, layout, (*heads, *sorted(carried)), notes, life, earlier)
            setup.release()
            writer._take_stock(current if not replaces else None)
            return writer
        except BaseException:
            life.release()
            raise
        finally:
            setup.release()

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._thread is not None:
                self._queue.put(None)
                self._thread.join()
        finally:
            for claim in (*self._claims.values(), *(self._witness or ())[1:]):
                claim.release()
            try:
                self._finish()
            finally:
                self._life.release()
        if error is None:
            self._raise_failure()

    def witness(self) -> str:
        """The name of a claim that this writer holds, by which processes elsewhere tell that they see this store."""
        if self._witness is None:
            name = f"witness-{uuid4().hex}"
            self._witness = name, self._store.claim(name)
            self._witness[1].acquire()
        return self._witness[0]

    def rest(self) -> None:
        """Give up all claims until `resume`: others may then replace the store, as they do to widen a dtype.

        Not to be called while a shard is claimed or being written.
        """
        self._life.release()

    def resume(self) -> None:
        """Go on after `rest`; does nothing without it.

        Raises:
            Widened: another process has changed the layout: open the store again.
            UserError: another process has replaced the store by one of other rows or another recipe.
        """
        self._life.acquire(exclusive=False, patience=float("inf"))
        text = self._store.read("zarr.json")
        current = None if text is None else Layout.read(text, f"{self.path}/zarr.json")
        if current == self.layout:
            return
        if current is None or any(
            getattr(current, name) != getattr(self.layout, name) for name in ("recipe", "rows_digest", "shard_rows")
        ):
            raise UserError(
                f"{self.path}: another process has replaced it by a store of other rows or settings; let that one "
                "finish, and run this again"
            )
        raise Widened

    def missing(self, shards: Iterable[int] | None = None, heads: Collection[str] | None = None) -> Iterator[Shard]:
        """The shards to compute, in order, each handed to a single process.

        Shards that earlier features cover are filled without being handed out. If other processes hold the last
        shards, this waits for them: when it ends without an error, the store is complete except for this process's
        pending writes. If one of the others dies, its shard is handed out here. A few shards may be taken ahead, but
        with unwritten shards this does not wait for other processes.

        Args:
            shards: numbers of the shards to consider; all if None.
            heads: heads to compute now; each shard lists those that it lacks; all if None.

        Raises:
            Widened: another process found values too large for a head's dtype.
        """
        waiting = list(range(self.layout.shards) if shards is None else shards)
        pause = 0.02
        while waiting:
            held = []
            for index in waiting:
                self._raise_failure()
                if not self._wanting(index, heads):
                    continue
                claim = self._store.claim(f"shard-{index}")
                if not claim.acquire():
                    held.append(index)
                    continue
                wanting = self._wanting(index, heads)  # again: another process may have finished it
                if not wanting:
                    claim.release()
                    continue
                with self._claims_guard:
                    self._claims[index] = claim
                self._check_dtypes()
                shard = self._reuse(index, wanting)
                if shard is not None:
                    self._unwritten.add(index)
                    yield shard
            # Two processes that wait while they hold unwritten shards would wait for each other forever.
            waiting = [] if self._unwritten else held
            if waiting:
                time.sleep(pause)
                pause = min(2 * pause, 1.0)

    def write(self, shard: Shard, features: Mapping[str, np.ndarray]) -> None:
        """Write a shard. Values are checked and copied before this returns; writing goes on in the background.

        One shard is written at a time: the next call waits for it. So memory stays bounded when the disk
        is slower than the model, and a killed process loses at most that shard and those it was computing: on a
        CPU, a shard is begun while the one before it is finished.

        Args:
            shard: from `missing`.
            features: per head, rows [len(shard.rows), *shape] in the order of `shard.rows`, floats (or the bits of
                bfloat16 as uint16); or all rows start .. stop - 1. Other heads are ignored.

        Raises:
            UserError: features are NaN or infinite or do not fit the dtype (names shard and row ids), or an earlier
                write failed, for example because the disk is full.
        """
        self._raise_failure()
        if shard.index not in self._unwritten:
            raise ValueError(f"shard {shard.index} was not handed to this writer, or was written already")
        whole = shard.stop - shard.start
        encoded = {}
        for name in shard.heads:
            if name not in features:
                raise UserError(f"{self.path}: head `{name}` is missing from the features of shard {shard.index}")
            values = features[name]
            if len(values) not in (len(shard.rows), whole):
                rows = count(len(shard.rows), "row")
                raise UserError(f"{self.path}: shard {shard.index} needs {rows} of `{name}`, found {len(values)}")
            try:
                arrays = encode(values, name, self.layout.heads[name])
            except NotFinite as error:
                numbers = np.arange(shard.start, shard.stop) if len(values) == whole else shard.rows
                raise UserError(self._not_finite(error, name, shard, numbers)) from None
            if len(values) < whole:
                known = np.ones(whole, bool)
                known[shard.rows - shard.start] = False
                merged = self._gather(name, shard.start, shard.stop, known)
                for array, fresh in arrays.items():
                    merged[array][~known] = fresh
                arrays = merged
            encoded[name] = arrays
        self._enqueue(shard.index, encoded)
        self._unwritten.discard(shard.index)

    def widen(self, dtypes: Mapping[str, Dtype]) -> None:
        """Have heads stored in wider dtypes, by every process that writes this store: each opens it again.

        Their finished shards are computed again then, as all rows of a head have one dtype, rounded once. This outlives
        the process, and a store keeps a wider dtype as long as its recipe and the dtype that is asked for stay.

        Args:
            dtypes: by head.

        Raises:
            Widened: always.
        """
        for name, dtype in dtypes.items():
            dtype = max(dtype, _wider(self._store, self.layout, name) or dtype, key=WIDENING.index)
            record = {"head": _asked(self.layout, name), "dtype": dtype}
            self._store.put(_wider_file(name), [written(signed(record))])
        raise Widened

    def _check_dtypes(self) -> None:
        """Raise `Widened` if a head has a wider dtype than when this writer opened the store."""
        for name in self.heads:
            if _wider(self._store, self.layout, name) not in (None, self.layout.heads[name].dtype):
                raise Widened

    def rows_missing(self, heads: Collection[str] | None = None) -> int:
        """How many rows are still to compute, by any process; reusable ones and finished shards do not count.

        Args:
            heads: for these; all if None.
        """
        missing, store = 0, self._store.snapshot()
        for index in range(self.layout.shards):
            if wanting := self._wanting(index, heads, store):
                missing += int((~self._known(index, wanting)).sum())
        return missing

    def _take_stock(self, continued: Layout | None) -> None:
        """Add notes on what is already there."""
        store = self._store.snapshot()
        done = sum(not self._wanting(index, store=store) for index in range(self.layout.shards))
        if continued is not None:
            state = "complete" if done == self.layout.shards else "continuing"
            self.notes.append(f"{state}: {done} of {count(self.layout.shards, 'shard')} are there")
        known = np.zeros(self.layout.rows, bool)
        for earlier in self._earlier:
            if earlier.heads:
                known |= earlier.positions >= 0
        if known.any() and done < self.layout.shards:
            rows = count(self.layout.rows, "row")
            self.notes.append(f"{known.sum():,} of {rows} are known from before; new are the others")

    def _wanting(self, index: int, of: Collection[str] | None = None, store: Backend | None = None) -> tuple[str, ...]:
        """The heads that still lack a shard. A shard that contradicts its marker is written again.

        Args:
            index: of the shard.
            of: heads to consider; all if None.
            store: where to look: a snapshot, for many shards.
        """
        heads = []
        for head in self.heads:
            if (of is not None and head not in of) or (head, index) in self._complete:
                continue
            try:
                found = marker(store or self._store, self.layout, head, index)
            except Damaged as error:
                note = f"shard {index} of `{head}` is damaged ({error}): writing it again"
                if note not in self.notes:
                    self.notes.append(note)
                found = None
            if found is None:
                heads.append(head)
            else:
                self._complete.add((head, index))
        return tuple(heads)

    def _reuse(self, index: int, wanting: tuple[str, ...]) -> Shard | None:
        """The part of a shard that is left to compute after reuse; None if nothing is left."""
        start, stop = self.layout.span(index)
        digest = self._rows.digest(start, stop)
        wanting = tuple(
            head
            for head in wanting
            if not any(earlier.adopt(head, index, self.layout, digest) for earlier in self._earlier)
        )
        if not wanting:
            with self._claims_guard:
                self._claims.pop(index).release()
            return None
        known = self._known(index, wanting)
        if known.all():
            encoded = {head: self._gather(head, start, stop, known) for head in wanting}
            self._enqueue(index, encoded)
            return None
        return Shard(index, start, stop, start + np.flatnonzero(~known), wanting)

    def _known(self, index: int, wanting: tuple[str, ...]) -> np.ndarray:
        """Which rows of a shard are known from earlier features, for all wanting heads; bool [stop - start]."""
        start, stop = self.layout.span(index)
        known = np.ones(stop - start, bool)
        for head in wanting:
            here = np.zeros(stop - start, bool)
            for earlier in self._earlier:
                here |= earlier.available(head, start, stop)
            known &= here
        return known

    def _gather(self, head: str, start: int, stop: int, known: np.ndarray) -> dict[str, np.ndarray]:
        """Stored arrays of a shard, the known rows filled in from earlier features."""
        left = known.copy()
        arrays = {
            array: page_aligned((stop - start, *shape), dtype)
            for array, (shape, dtype) in self.layout.heads[head].arrays(head).items()
        }
        for earlier in self._earlier:
            here = left & earlier.available(head, start, stop)
            if here.any():
                earlier.take(head, start, here, arrays)
                left &= ~here
        return arrays

    def _enqueue(self, index: int, encoded: dict[str, dict[str, np.ndarray]]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._drain, name="store-writer", daemon=True)
            self._thread.start()
        self._queue.join()  # so that at most one finished shard is not yet on disk, and lost if we are killed
        self._queue.put((index, encoded))

    def _drain(self) -> None:
        """The background thread: commits shards one after another, and none after a failure."""
        while (job := self._queue.get()) is not None:
            index, encoded = job
            try:
                if self._failure is None:
                    for head, arrays in encoded.items():
                        self._commit(index, head, arrays)
            # Any error: this thread must go on taking jobs, or the model waits forever.
            except BaseException as error:
                self._failure = error
            finally:
                with self._claims_guard:
                    self._claims.pop(index).release()
                self._queue.task_done()

    def _commit(self, index: int, head: str, arrays: dict[str, np.ndarray]) -> None:
        known = resolved_codec(self._store, self.layout, head)
        codec = known or resolve_codec(self._store, self.layout, head, arrays[head])
        start, stop = self.layout.span(index)
        files = {}
        for array, grid in self.layout.grids(head, codec).items():
            parts = pack(grid, index, arrays[array])
            self._confirm(index)
            check = self._store.put(f"{array}/{grid.key(index)}", parts)
            files[array] = {"bytes": size_of(parts), "checksum": check}
        mark = Marker(start, stop, self._rows.digest(start, stop), self.layout.identity(head), files)
        self._confirm(index)
        # A power cut may lose or tear a marker, which its digest shows, and then costs its shard; when the store is
        # complete, `_finish` makes all of them durable.
        self._store.put(f"{head}/{marker_name(index)}", [mark.text()], durable=False)

    def _confirm(self, index: int) -> None:
        """Make sure that nobody else may write a shard, or replace the store. Raises `UserError` if one may."""
        self._life.confirm()
        self._claims[index].confirm()

    def _finish(self) -> None:
        """If the store is complete and no other process is writing it, delete what only writing needs."""
        setup, store = self._store.claim("setup"), self._store.snapshot()
        unfinished = any(self._wanting(index, store=store) for index in range(self.layout.shards))
        if unfinished or not setup.acquire(patience=PATIENCE + setup.lingers):
            return
        try:
            if self._life.acquire():
                shards = range(self.layout.shards)
                self._store.sync(f"{head}/{marker_name(index)}" for head in self.heads for index in shards)
                for folder in replaced_folders(self._store):
                    self._store.delete(folder)
                for file in self._store.files():
                    if file.endswith(PARTIAL) and STORE_FILE.fullmatch(file):
                        self._store.delete(file)
                self._store.delete(LOCKS)
        finally:
            # In this order: the next one that gets the setup must find this one gone, or the last one never cleans up.
            self._life.release()
            setup.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _not_finite(self, error: NotFinite, head: str, shard: Shard, numbers: np.ndarray) -> str:
        ids = [self._rows.ids[int(row)] for row in numbers[error.rows[:NAMED_ROWS]]]
        more = f" and {len(error.rows) - len(ids)} more" if len(error.rows) > len(ids) else ""
        rows = f"{count(len(error.rows), 'row')} ({', '.join(ids)}{more})"
        where = f"{self.path}: head `{head}`, shard {shard.index}, {rows}"
        if error.overflow:
            return f"{where}: values too large for {self.layout.heads[head].dtype}; store bfloat16 or float32"
        return f"{where}: the model gave NaN or infinity; try precision float32, or remove the rows"


def _widened(store: Backend, current: Layout | None, wanted: Layout) -> Layout:
    """The layout with the dtypes that its values turned out to need, where those asked for are too narrow."""
    same_recipe = current is not None and current.recipe_digest == wanted.recipe_digest
    heads = {}
    for name, head in wanted.heads.items():
        before = current.heads.get(name) if current is not None and same_recipe else None
        kept = before.dtype if before is not None and before.asked == head.dtype else None
        dtype = _wider(store, wanted, name) or kept
        heads[name] = replace(head, dtype=dtype, asked=head.dtype) if dtype else head
    return replace(wanted, heads=heads)


def _wider(store: Backend, layout: Layout, head: str) -> Dtype | None:
    """The dtype that a writer of this store has found to be needed for a head, if one has."""
    try:
        record = json.loads(store.read(_wider_file(head)) or b"null")
    except (ValueError, RecursionError):
        return None
    # A file that was left behind may be about another recipe, or another dtype that was asked for.
    if not is_signed(record) or record.get("head") != _asked(layout, head) or record.get("dtype") not in WIDENING:
        return None
    dtype: Dtype = record["dtype"]
    return dtype


def _asked(layout: Layout, head: str) -> str:
    """A digest of a head as it was asked for."""
    values = layout.heads[head].values()
    return digest_of({"recipe": layout.recipe_digest, **values, "dtype": layout.heads[head].asked or values["dtype"]})


def _wider_file(head: str) -> str:
    return f"{LOCKS}/wider-{head}.json"


def _resolve(current: Layout | None, wanted: Layout, fixed: bool) -> tuple[Layout, list[str], bool]:
    """The layout to write, notes about it, and whether it replaces the current one.

    Args:
        fixed: whether the number of rows of a shard was asked for.
    """
    if current is None:
        return wanted, [], True
    if current.recipe_digest != wanted.recipe_digest:
        changed = ", ".join(differences(dict(current.recipe), dict(wanted.recipe)))
        return wanted, [f"recipe changed ({changed}): starting again"], True
    notes = []
    # With a constant size of shards, most shards stay as they are while rows change.
    shard_rows = wanted.shard_rows if fixed else current.shard_rows
    kept = {name: head for name, head in current.heads.items() if name not in wanted.heads}
    layout = Layout(
        wanted.rows, wanted.rows_digest, wanted.dataset, wanted.recipe, shard_rows, {**kept, **wanted.heads},
        current.created_by,
    )  # fmt: skip
    same_rows = layout.rows_digest == current.rows_digest
    changed_heads = [name for name in current.heads if layout.heads[name] != current.heads[name]]
    if same_rows and shard_rows == current.shard_rows and not changed_heads:
        if added := sorted(layout.heads.keys() - current.heads.keys()):
            notes.append(f"adding {', '.join(f'`{name}`' for name in added)} alongside existing heads")
        if changed := ", ".join(differences(dict(current.created_by), dict(wanted.created_by))):
            notes.append(f"begun by other versions ({changed})")
        return layout, notes, False
    if not same_rows:
        notes.append(f"rows changed: {current.rows:,} -> {layout.rows:,}")
    for name in changed_heads:
        changed = ", ".join(differences(current.heads[name].record(), layout.heads[name].record()))
        notes.append(f"head `{name}` changed ({changed})")
    return layout, notes, True


def is_shared(place: str | Path | Backend, witness: str) -> bool:
    """Whether a place is, from here, that of a writer with this `witness`, and claims keep processes apart there."""
    store = backend_at(place)
    claim = store.claim(witness) if isinstance(store, WritableBackend) else None
    if claim is None or not claim.acquire():
        return claim is not None
    claim.release()
    return False


def _row_files(rows: RowIndex) -> dict[str, bytes | memoryview]:
    """The row index of a store, as files."""
    files: dict[str, bytes | memoryview] = {"rows/zarr.json": ROWS_METADATA}
    for name, array in {"id_bytes": rows.id_bytes, "id_ends": rows.id_ends, "digests": rows.digests}.items():
        files[f"rows/{name}/zarr.json"] = flat_metadata(array)
        files[f"rows/{name}/c{'.0' * array.ndim}"] = np.ascontiguousarray(array).data
    return files


def _create(store: WritableBackend, layout: Layout, heads: Iterable[str], files: dict[str, bytes | memoryview]) -> None:
    """Write `files` and the metadata of `heads`, and last, so that they count, the layout that they belong to."""
    for name in heads:
        codec = layout.heads[name].codec
        # Where the codec is `auto`, its first shard decides.
        if codec != "auto":
            files |= {f"{array}/zarr.json": grid.metadata() for array, grid in layout.grids(name, codec).items()}
    store.put_together(files)
    store.put("zarr.json", [layout.metadata()])
