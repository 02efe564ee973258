"""A Ray cluster: workers are actors, on any machine that has the project's folder, and take one item at a time.

The driver, which is the process that runs the command, hands items out in a loop of its own. Nothing is left to Ray's
retries: an actor that dies, alone or with its machine, or that gives no sign of life, is dropped, and its item goes to
another one. The item may be done all the same, and then its marker says so. Actors end with the driver; running the
command again continues.
"""

import hashlib
import os
import pickle
import re
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar

import torch

from pipeline.engines import Worker
from pipeline.errors import UserError
from pipeline.machine import Machine, cores
from pipeline.plugins import LIBRARY
from pipeline.provenance import OF_FEATURES, versions

Item = TypeVar("Item")
Result = TypeVar("Result")

CONNECT = 60.0
"""Seconds in which a cluster must answer."""

TICK = 1.0
"""Seconds between two looks at the cluster, and between two reports of a worker that has results."""

LOSSES = 5
"""Workers that are lost at one item, or in a row before they begin, until it is an error."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # What Ray says of workers that died would go to stdout; what the user should know is said here.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Of workers on a cluster of this machine alone: they do what the command would do itself.
    "RAY_worker_niceness": "0",
}
"""Of Ray, which reads them when it is imported."""


def map(
    make_worker: Callable[[], Worker[Item, Result]],
    items: Iterable[Item],
    workers: int | None = None,
    machine: Machine = Machine(),
    say: Callable[[str], None] = lambda line: None,
) -> Generator[Result]:
    """Run all items; see `pipeline.engines`. The results of an item come when it is done.

    Workers may join and leave while it runs: without `workers` there are as many as the cluster has room for now.

    Raises:
        UserError: Ray is not installed, the cluster does not answer or has no room, a worker does not see the project
            or has another version of aft, or too many were lost.
    """
    crew = _Crew(_connected(machine.address), pickle.dumps(make_worker), items, workers, machine, say)
    try:
        yield from crew.run()
    finally:
        crew.end()


@dataclass
class _Task:
    """What an actor is doing.

    Attributes:
        item: its number and itself; None while the actor starts.
        host: where the actor is, once it has started.
        heard: when there was the last sign of life.
        results: so far.
    """

    actor: Any
    item: tuple[int, Any] | None = None
    host: str = ""
    heard: float = field(default_factory=monotonic)
    results: list[Any] = field(default_factory=list)


class _Crew:
    """The actors of one call of `map`. Each has one task, by what `ray.wait` waits for."""

    def __init__(
        self,
        ray: Any,
        maker: bytes,
        items: Iterable[Any],
        workers: int | None,
        machine: Machine,
        say: Callable[[str], None],
    ):
        self.ray, self.workers, self.machine, self.say = ray, workers, machine, say
        self.todo = deque(enumerate(items))
        self.tasks: dict[Any, _Task] = {}
        self.losses: Counter[int | None] = Counter()
        self.heard = monotonic()
        gpu = machine.device.startswith("cuda") or (machine.device == "auto" and "GPU" in ray.cluster_resources())
        self.need = {"CPU": 1, "GPU": 1} if gpu else {"CPU": machine.threads}
        options = {"num_cpus": self.need["CPU"], "num_gpus": self.need.get("GPU", 0), "max_restarts": 0}
        self._make = ray.remote(**options)(_Actor).remote
        self._arguments = os.getcwd(), maker, own_versions(), None if gpu else machine.threads

    def run(self) -> Iterator[Any]:
        """Do all items; yields their results."""
        while self.todo or self._busy():
            self._hire()
            for waited in self.ray.wait([*self.tasks], timeout=TICK)[0]:
                yield from self._hear(waited)
            self._look_for_the_hung()

    def end(self) -> None:
        """End all actors."""
        for task in self.tasks.values():
            self.ray.kill(task.actor)

    def _busy(self) -> int:
        return sum(task.item is not None for task in self.tasks.values())

    def _hire(self) -> None:
        """Start as many actors as there is room and work for."""
        there = self.ray.cluster_resources()
        room = self.workers or max(1, int(min(there.get(name, 0) // of for name, of in self.need.items())))
        starting = len(self.tasks) - self._busy()
        for _ in range(min(room - len(self.tasks), len(self.todo) - starting)):
            actor = self._make(*self._arguments)
            self.tasks[actor.host.remote()] = _Task(actor)

    def _hear(self, waited: Any) -> Iterator[Any]:
        """Take what an actor has to say; yields the results of an item that is done."""
        task, self.heard = self.tasks.pop(waited), monotonic()
        errors = self.ray.exceptions
        try:
            if task.item is None:
                self._give(task.actor, self.ray.get(waited))
                del self.losses[None]
            else:
                task.results += self.ray.get(next(waited))
                task.heard = self.heard
                self.tasks[waited] = task
        except StopIteration:
            yield from task.results
            self._give(task.actor, task.host)
        except errors.RayTaskError as error:
            self.ray.kill(task.actor)
            raise error.cause from (None if isinstance(error.cause, UserError) else error)
        except errors.RayError as error:
            self._lose(task, _reason(error))

    def _give(self, actor: Any, host: str) -> None:
        """Give an actor its next item; end it if there is none."""
        if self.todo:
            item = self.todo.popleft()
            self.tasks[actor.work.options(num_returns="streaming").remote(item[1])] = _Task(actor, item, host)
        else:
            self.ray.kill(actor)

    def _lose(self, task: _Task, why: str) -> None:
        """Drop an actor; its item is the next to be given away."""
        self.ray.kill(task.actor)
        number = None if task.item is None else task.item[0]
        self.losses[number] += 1
        if self.losses[number] == LOSSES:
            at = "before they began" if task.item is None else "at the same work"
            raise UserError(
                f"machine.engine: ray: {LOSSES} workers were lost {at}, the last one: {why}; what was finished is "
                "kept; see to that, and run it again"
            )
        if task.item is not None:
            self.todo.appendleft(task.item)
            self.say(f"a worker on {task.host} was lost: {why}; its work is given to another")

    def _look_for_the_hung(self) -> None:
        """Drop actors that give no sign of life.

        Raises:
            UserError: not one could start.
        """
        patience = self.machine.patience * 60
        silent = [each for each, task in self.tasks.items() if task.item and monotonic() - task.heard > patience]
        for waited in silent:
            self.heard = monotonic()
            self._lose(self.tasks.pop(waited), f"no sign of life for {self.machine.patience:g} minutes")
        if self.todo and not self._busy() and monotonic() - self.heard > patience:
            there = self.ray.available_resources()
            free = _named({name: there.get(name, 0) for name in self.need})
            raise UserError(
                f"machine.engine: ray: no worker could start for {self.machine.patience:g} minutes: each needs "
                f"{_named(self.need)}, and free are {free}; add machines, or wait"
            )


class _Actor:
    """A worker in a process of the cluster.

    Args:
        folder: the project's, of the driver.
        maker: makes the worker.
        versions: of the driver.
        threads: that it computes with; None where it has a GPU, and then its share of the machine's cores.
    """

    def __init__(self, folder: str, maker: bytes, versions: dict[str, str], threads: int | None):
        self._arguments = folder, maker, versions, threads
        self._worker: Any = None

    def host(self) -> str:
        """The name of its machine."""
        return socket.gethostname()

    def work(self, item: Any) -> Iterator[list[Any]]:
        """Do an item; yields results so far, some of them together, as a sign of life."""
        if self._worker is None:
            try:
                self._worker = make_here(*self._arguments)
            except UserError as error:
                raise UserError(f"worker on {self.host()}: {error}") from None
        results, told = [], monotonic()
        for result in self._worker([item]):
            results.append(result)
            if monotonic() - told >= TICK:
                yield results
                results, told = [], monotonic()
        yield results


def make_here(folder: str, maker: bytes, theirs: dict[str, str], threads: int | None) -> Any:
    """The worker of this process, in the project's folder.

    Raises:
        UserError: the folder is not there, or aft or a library has another version than the driver's.
    """
    own = own_versions()
    if other := [f"{name} {own.get(name)} and not {it}" for name, it in theirs.items() if own.get(name) != it]:
        raise UserError(f"has {', '.join(other)}; install the same versions on all machines")
    try:
        os.chdir(folder)
    except OSError:
        raise UserError(
            f"{folder}: the project is not there; put it on a file system that all machines have at this path, or a "
            "copy of it there, with `features` in params.yaml on object storage"
        ) from None
    torch.set_num_threads(threads or _share_of_cores())
    return pickle.loads(maker)()


def own_versions() -> dict[str, str]:
    """What must be the same in all processes: aft, by its files, and the libraries that features depend on."""
    code = hashlib.sha256()
    for path in sorted(LIBRARY.rglob("*.py")):
        code.update(f"{path.relative_to(LIBRARY).as_posix()}:".encode() + path.read_bytes())
    found = {name: version for name, version in versions(*OF_FEATURES).items() if name != "python"}
    return found | {"aft-pipeline": f"{found.get('aft-pipeline', '')} ({code.hexdigest()[:8]})"}


def _share_of_cores() -> int:
    """Cores of this machine for each of its GPUs, at most all."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    gpus = next((node["Resources"].get("GPU", 1) for node in ray.nodes() if node["NodeID"] == here), 1)
    return max(1, int(cores() // max(1, gpus)))


def _connected(address: str | None) -> Any:
    """Ray, connected to a cluster. A connection that this process has is used.

    Raises:
        UserError: Ray is not installed, or the cluster does not answer.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError(
            f"machine.engine: ray: the package {error.name} is not installed; run pip install 'aft-pipeline[ray]'"
        ) from None
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        # Nothing goes through Ray's object store but progress.
        ray.init(address, num_cpus=cores(), include_dashboard=False, object_store_memory=80 << 20, **quiet)
        return ray
    where = f"machine.address: {address}"
    if "://" in address:
        raise UserError(f"{where}: write HOST:PORT, and run this on a machine of the cluster, as `ray job submit` does")
    failed: list[Exception] = []

    def connect() -> None:
        try:
            ray.init(address, **quiet)
        except Exception as error:
            failed.append(error)

    # Ray itself tries for many minutes.
    if address == "auto" or _answers(address):
        thread = threading.Thread(target=connect, daemon=True, name="aft-ray")
        thread.start()
        thread.join(CONNECT)
    if failed or not ray.is_initialized():
        why = _sentence(str(failed[0])) if failed else f"no Ray cluster answers there within {CONNECT:g} s"
        raise UserError(f"{where}: {why}; see `ray status` on this machine, and the address that `ray start` printed")
    return ray


def _answers(address: str) -> bool:
    """Whether something takes connections at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def _named(resources: dict[str, Any]) -> str:
    return " and ".join(f"{number:g} {name}" for name, number in resources.items())


def _reason(error: Exception) -> str:
    """Why an actor died, in a sentence of Ray's message."""
    text = str(error)
    if "creation task" in text or "failed to import" in text:
        return text.strip().splitlines()[-1].strip()[:200]
    found = re.search(r"because (.+?)(?:\.\s|$)", text, re.DOTALL)
    return _sentence(found[1] if found else text)


def _sentence(text: str) -> str:
    return " ".join(text.split(". ")[0].split())[:200].rstrip(".")
