"""What a scan has found, and its copy on the disk, from which an interrupted `aft prepare` goes on.

A scan that lasts longer than `EVERY` writes what it has found since the last time:

    .data.partial/scan/000000.arrow     a line for each row
    .data.partial/scan/000000.json      checksums of both, what else was found, and how far the sources were read

A part counts once its second file is there. One that is damaged, or of other settings, and all after it are left out.
A short scan writes none.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import tasks
from pipeline.checksum import checksum, file_checksum
from pipeline.data.sources import Known, Position
from pipeline.files import replacing, write_atomically

EVERY = 10.0
"""Seconds between two parts."""

WIDTHS = {"rows": 8, "units": 8, "digests": 16, "keys": 16, "codes": 4, "splits": 1, "lines": 8, "further": 1}
"""What `ScanState` has of each row, in bytes."""

BY_ROW = ("files", "problems", "skipped")

SCHEMA = pa.schema({"id": pa.string(), "group": pa.string(), **{name: pa.binary(n) for name, n in WIDTHS.items()}})


class ScanState:
    """What is known of the rows that were looked at. It only grows, so what came after some row is a slice.

    Args:
        exact: whether only rows with equal content are duplicates.

    Attributes:
        ids: row ids, in pieces.
        rows, units, digests, keys: bytes of each row, one row after another; see `pipeline.data.scan.Scan`. `units` is
            `rows` where no row has a group, and `keys` is `digests` where only equal content makes duplicates.
        labels: every label, with its number.
        codes: the number of each row's label, -1 for none.
        splits, lines, further, files, problems, skipped, remarks, moved: as in `Scan`.
        groups: of the rows since the last mark, in pieces.
        doubt: what to ask about a label that looks like none.
    """

    def __init__(self, exact: bool):
        self.ids: list[pa.Array] = []
        self.rows, self.digests = bytearray(), bytearray()
        self.units = self.rows
        self.keys = self.digests if exact else bytearray()
        self.labels: dict[tasks.Label, int] = {}
        self.codes, self.splits, self.lines, self.further = array("i"), array("b"), array("q"), bytearray()
        self.files: dict[str, int] = {}
        self.problems: dict[int, str] = {}
        self.skipped: dict[int, str] = {}
        self.remarks: dict[str, tuple[int, int]] = {}
        self.groups: list[pa.Array] = []
        self.doubt: str | None = None
        self.moved = 0
        self.mark()

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def grouped(self) -> bool:
        """Whether any row has a group."""
        return self.units is not self.rows

    def rows_since(self) -> Iterator[pa.RecordBatch]:
        """The rows since the last mark, in pieces."""
        row = self._marked["rows"]
        for id, group in zip(self.ids[self._marked["ids"] :], self.groups, strict=True):
            columns = [id, group.cast(pa.string())]
            for name, width in WIDTHS.items():
                content = bytes(memoryview(getattr(self, name)).cast("B")[row * width : (row + len(id)) * width])
                buffers = [None, pa.py_buffer(content)]
                columns.append(pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(id), buffers))
            row += len(id)
            yield pa.record_batch(columns, schema=SCHEMA)

    def rest_since(self) -> dict[str, Any]:
        """What else was found since the last mark, for JSON."""
        rest = {name: list(islice(getattr(self, name).items(), self._marked[name], None)) for name in BY_ROW}
        labels = list(islice(self.labels, self._marked["labels"], None))
        return {
            **rest, "labels": labels, "remarks": self.remarks, "doubt": self.doubt, "moved": self.moved,
            "grouped": self.grouped,
        }  # fmt: skip

    def add(self, rows: Iterable[pa.RecordBatch], rest: Mapping[str, Any]) -> None:
        """Add what these two gave, and mark it."""
        if rest["grouped"] and not self.grouped:
            self.units = self.rows.copy()
        for batch in rows:
            self.ids.append(batch["id"].take(np.arange(len(batch))))  # a copy, so that the rest of the batch can go
            for name, width in WIDTHS.items():
                content = memoryview(batch[name].buffers()[1])[: len(batch) * width]
                if (name, self.grouped) == ("units", False) or (name == "keys" and self.keys is self.digests):
                    continue
                if isinstance(kept := getattr(self, name), array):
                    kept.frombytes(content)
                else:
                    kept.extend(content)
        for name in BY_ROW:
            getattr(self, name).update(rest[name])
        for label in rest["labels"]:
            self.labels[tuple(label) if isinstance(label, list) else label] = len(self.labels)
        self.remarks = {remark: (times, first) for remark, (times, first) in rest["remarks"].items()}
        self.doubt, self.moved = rest["doubt"], rest["moved"]
        self.mark()

    def mark(self) -> None:
        """What was found so far is known elsewhere."""
        self.groups = []
        self._marked = {name: len(getattr(self, name)) for name in ("ids", "labels", *BY_ROW)} | {"rows": len(self)}


class Journal:
    """The parts of a scan that are on the disk.

    Args:
        folder: of the parts.
        settings: a digest of all that decides what is found.

    Attributes:
        found: what was found, and is known from the parts at first.
    """

    def __init__(self, folder: Path, settings: str, exact: bool):
        self.found = ScanState(exact)
        self._folder, self._settings = folder, settings
        self._ends: list[tuple[int, list[Position]]] = []
        self._last = monotonic()
        while (marker := self._marker(len(self._ends))) is not None and marker["settings"] == settings:
            self.found.add(self._rows(len(self._ends)), marker["rest"])
            self._ends.append((len(self.found), [Position(*position) for position in marker["positions"]]))
        for path in folder.glob("*"):
            if path.stem not in {self._path(number, "").name for number in range(len(self._ends))}:
                path.unlink()

    @property
    def begun(self) -> bool:
        """Whether there is any part."""
        return bool(self._ends)

    def due(self) -> bool:
        """Whether it is time to write a part."""
        return monotonic() - self._last >= EVERY

    def write(self, positions: Sequence[Position]) -> None:
        """Write what was found since the last part, all of it before these positions."""
        if self._ends and positions == self._ends[-1][1]:
            return
        number = len(self._ends)
        data = self._path(number, ".arrow")
        with replacing(data) as file, pa.ipc.new_stream(file, SCHEMA) as stream:
            for batch in self.found.rows_since():
                stream.write_batch(batch)
        marker = {"settings": self._settings, "positions": list(positions), "checksum": file_checksum(data)}
        text = json.dumps(marker | {"rest": self.found.rest_since()})
        write_atomically(self._path(number, ".json"), f"{checksum([text.encode()])}\n{text}")
        self.found.mark()
        self._ends.append((len(self.found), list(positions)))
        self._last = monotonic()

    def known(self, rows: int | None = None) -> Known:
        """How far the sources were read within the first `rows` rows, or all that were found."""
        ends = [positions for end, positions in self._ends if rows is None or end <= rows]
        ids = pa.chunked_array(self.found.ids, pa.string())
        labels = {name for label in self.found.labels for name in (label if isinstance(label, tuple) else [label])}
        return Known(ends[-1] if ends else [], lambda start, stop: (id.as_py() for id in ids[start:stop]), labels)

    def groups(self) -> Iterator[str | None]:
        """The group of each row, in all parts."""
        for number in range(len(self._ends)):
            for batch in self._rows(number):
                yield from batch["group"].to_pylist()

    def _path(self, number: int, ending: str) -> Path:
        return self._folder / f"{number:06}{ending}"

    def _marker(self, number: int) -> dict[str, Any] | None:
        """What is said of a part; None if there is none, or it is damaged."""
        try:
            own, _, text = self._path(number, ".json").read_text(encoding="utf-8").partition("\n")
            found: dict[str, Any] | None = json.loads(text) if checksum([text.encode()]) == own else None
            return found if found and file_checksum(self._path(number, ".arrow")) == found["checksum"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _rows(self, number: int) -> Iterator[pa.RecordBatch]:
        with pa.OSFile(str(self._path(number, ".arrow"))) as file:
            yield from pa.ipc.open_stream(file)
