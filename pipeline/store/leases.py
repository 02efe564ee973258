"""Claims on object storage, where there are no locks: leases, which their holder renews.

A lease is an object. Its holder writes it again every few seconds; one that is older than `LEASE`, by the clock of the
service, is nobody's. Every write is conditional on the version that was read before, so one of several that want a
lease gets it. Those that share a claim have an object each: one that wants it alone first takes the lease and then
looks for them, and one that wants to share it first leaves its object and then looks at the lease. So at least one of
them sees the other.

A process that slept may have lost a lease. So `confirm` comes before anything is written that it protects.
"""

import json
import random
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable
from uuid import uuid4

from pipeline.errors import UserError
from pipeline.locks import myself

LEASE = 60.0
"""Seconds after which a lease that was not renewed is nobody's."""

RENEWAL = LEASE / 4
"""Seconds between renewals."""

PAUSE = 0.05, 1.0
"""Seconds between two attempts to get a claim: at first, and at most."""

Version = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """An object as it was read: its content, its version, and how many seconds ago it was written."""

    content: bytes
    version: Version
    age: float


@runtime_checkable
class Objects(Protocol):
    """What leases need of object storage. Names are those of files of a store."""

    name: str

    def find(self, file: str) -> Found | None:
        """An object, None if it does not exist."""

    def ages(self, below: str) -> dict[str, float]:
        """How many seconds ago each file in a folder was written."""

    def put_if(self, file: str, content: bytes, version: Version | None) -> Version | None:
        """Write an object if it still has a version, or does not exist if that is None; its new version if it did."""

    def delete(self, name: str) -> None:
        """Delete an object."""


class Lease:
    """A claim, as `pipeline.store.backends.Claim` has it.

    Args:
        objects: where it is kept.
        name: its file.
    """

    def __init__(self, objects: Objects, name: str):
        self._objects, self._name = objects, name
        self._mine = f"{name}.shared/{uuid4().hex}"
        self._versions: dict[str, Version] = {}
        self._renewed = 0.0
        self._guard = threading.RLock()

    @property
    def lingers(self) -> float:
        return LEASE

    def acquire(self, exclusive: bool = True, patience: float = 0.0) -> bool:
        deadline = time.monotonic() + patience
        pause, longest = PAUSE
        while not self._try(exclusive):
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause * random.uniform(0.5, 1.5))  # those that wait together do not ask together
            pause = min(2 * pause, longest)
        _renew(self)
        return True

    def release(self) -> None:
        with self._guard:
            self._drop(self._name)
            self._drop(self._mine)

    def owner(self) -> str:
        found = self._objects.find(self._name)
        holder = _read(found) if found is not None else {}
        return str(holder.get("owner") or "another process")

    def confirm(self) -> None:
        with self._guard:
            if time.monotonic() - self._renewed > LEASE / 2:
                self.renew()
            if not self._versions or time.monotonic() - self._renewed > LEASE / 2:
                raise UserError(
                    f"{self._objects.name}: this process lost its claim `{self._name}`, which it could not renew for "
                    f"{LEASE:.0f} s, so another may write there now; what was finished is kept; run it again"
                )

    def renew(self) -> None:
        """Write what is held again; what another process took is not held any more."""
        with self._guard:
            for file in list(self._versions):
                if not self._write(file, self._versions[file]):
                    del self._versions[file]

    def _try(self, exclusive: bool) -> bool:
        with self._guard:
            held = set(self._versions)
            if not exclusive:
                return self._share()
            if self._name not in held and not self._take():
                return False
            if any(
                age <= LEASE for file, age in self._objects.ages(f"{self._name}.shared").items() if file != self._mine
            ):
                self._drop(self._name)
                return False
            self._drop(self._mine)
            return True

    def _take(self) -> bool:
        """Get the lease, if it is nobody's."""
        found = self._objects.find(self._name)
        if found is not None and found.age <= LEASE and _read(found).get("owner"):
            return False
        return self._write(self._name, None if found is None else found.version)

    def _share(self) -> bool:
        """Leave this holder's own object, unless another process has the lease."""
        if self._mine not in self._versions:
            self._write(self._mine, None)
        if self._name in self._versions:
            self._drop(self._name)
            return True
        found = self._objects.find(self._name)
        if found is not None and found.age <= LEASE and _read(found).get("owner"):
            self._drop(self._mine)
            return False
        return True

    def _write(self, file: str, version: Version | None) -> bool:
        """Write a lease with a version that was read before; returns whether it is this holder's now."""
        began = time.monotonic()
        content = json.dumps({"owner": myself(), "once": uuid4().hex}).encode()
        written = self._objects.put_if(file, content, version)
        if written is None:
            # A request that seemed to fail, and was made again, meets what it wrote itself.
            found = self._objects.find(file)
            if found is None or found.content != content:
                return False
            written = found.version
        self._versions[file], self._renewed = written, began
        return True

    def _drop(self, file: str) -> None:
        """Give up a lease. It is written empty and not deleted: it may be another's by now, and then stays."""
        version = self._versions.pop(file, None)
        if version is None:
            return
        if file == self._mine:
            self._objects.delete(file)
        else:
            self._objects.put_if(file, json.dumps({"once": uuid4().hex}).encode(), version)


def _read(found: Found) -> dict[str, Any]:
    """What a lease says; nothing if it is damaged, and then it lasts as long as its age says."""
    try:
        record = json.loads(found.content)
    except (ValueError, RecursionError):
        return {"owner": "another process"}
    return record if isinstance(record, dict) else {"owner": "another process"}


_HELD: "weakref.WeakSet[Lease]" = weakref.WeakSet()
_STARTED = threading.Lock()
_THREADS: list[threading.Thread] = []


def _renew(lease: Lease) -> None:
    """Have a lease renewed as long as its holder has it, by a thread for all of them."""
    with _STARTED:
        _HELD.add(lease)
        if not _THREADS:
            _THREADS.append(threading.Thread(target=_renewing, daemon=True, name="aft-leases"))
            _THREADS[0].start()


def _renewing() -> None:
    while True:
        time.sleep(RENEWAL)
        for lease in list(_HELD):
            try:
                lease.renew()
            except UserError:  # the network may be back the next time, and `confirm` says it where not
                continue
