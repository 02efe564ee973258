"""The ledger of trials: every finished training of a project, by a digest of everything that its result depends on.

    trials/<digest>/trial.json            what it depended on, and its result
    trials/<digest>/student.json          the student, unless the training diverged; see `pipeline.students`
    trials/<digest>/weights.safetensors
    trials/<digest>/rows.safetensors      its score on each validation row
    trials/<digest>/failure.safetensors   of one that diverged: the step, to do again; see `failure.py`
    trials/<digest>/SHA256SUMS            digests of these files; `sha256sum -c` checks them
    trials/.<digest>/                     a checkpoint of a trial that is not finished; see `checkpoint.py`

A trial is written to a temporary folder and renamed when it is complete, so a folder with its name is finished.
All runs share the ledger. A run looks up its trials and trains what is missing: a run that was killed continues, a
larger grid trains only what is new, and a trial that two runs share, such as plain training, is trained once.
"""

import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import file_digest, sha256
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.code import Code, live_modules
from pipeline.errors import UserError, count
from pipeline.files import (
    TEXT_BYTES,
    explained,
    make_folder,
    open_regular,
    read_regular,
    scratch_folder,
    sync_folder,
    sync_path,
    write_atomically,
)
from pipeline.locks import Lock
from pipeline.project import Project
from pipeline.records import TrialRecord
from pipeline.runs import Candidate
from pipeline.students import save_student
from pipeline.training.config import FOR_SOLVED
from pipeline.training.failure import FAILURE, Failure
from pipeline.training.session import Session
from pipeline.training.trial import TrialResult

RECORD, ROWS, SUMS = "trial.json", "rows.safetensors", "SHA256SUMS"
STUDENT = ("student.json", "weights.safetensors")

ONLY_WITH_METHODS = ("transfer_batch_size", "unlabelled", "augment_transfer")
"""Settings of `train` that have no effect without methods."""


NOT_IN_A_TRIAL = ("seeds", "race", "epochs")
"""Settings of `train` that say which trials there are, and change none of them; `epochs` are given as steps."""


@dataclass(frozen=True)
class Trial:
    """One training of a run: its seed, what it tries, and the digest that is its name in the ledger."""

    seed: int
    candidate: Candidate
    digest: str


def inputs_of(session: Session, seed: int, candidate: Candidate) -> dict[str, Any]:
    """All that the result of a trial depends on, as JSON-like data. Its digest is the trial's name.

    Plain training depends on no teacher, method or transfer batch, whatever run it belongs to.
    """
    data, plan = session.data, session.plan
    split = seed % data.splits
    blueprint = session.blueprint(split, candidate)
    at_work = [(term, weight) for term, weight in zip(session.run.methods, candidate.weights, strict=True) if weight]
    settings = session.settings(seed, candidate)
    augmentations = () if blueprint.solved else plan.augmentations(settings)
    train = settings.model_dump(exclude=set(NOT_IN_A_TRIAL))
    # In the order in which they are applied, with all defaults.
    train["augment"] = [{"name": each.name, "settings": each.settings.model_dump()} for each in augmentations]
    idle = {"views"} if at_work else {"views", *ONLY_WITH_METHODS}
    if not augmentations:
        idle.add("augment_transfer")
    if blueprint.solved:
        idle = set(train) - set(FOR_SOLVED)
    # Every trial has the scores that the task computes in any case; which of them chooses is no matter of the trial.
    if not settings.early_stopping and session.metric in session.task.metrics:
        idle.add("val")
    seen = session.views if at_work or (train["labelled_views"] and not blueprint.solved) else None
    found: dict[str, Any] = {
        "seed": seed,
        "rows": {"split": split, "train": data.split_digest(split), "val": _labels_digest(session, split)},
        "student": {
            "family": blueprint.family,
            "settings": blueprint.settings,
            "fitted": session.fitted_digest(split, candidate),
        },
        "outputs": blueprint.classes,
        "train": {key: value for key, value in train.items() if key not in idle and (seen or key != "labelled_views")},
        "device": session.device.type,
        "task": data.task.name,
        "code": _code(
            f"pipeline.tasks.{data.task.name}",
            f"pipeline.students.{blueprint.family}",
            *(f"pipeline.methods.{term.name}" for term, _ in at_work),
            *(f"pipeline.augmentations.{each.name}" for each in augmentations),
            *([f"pipeline.views.{seen.family}"] if seen else []),
            *(live_modules(plan.params, plan.name) if at_work else []),
        ),
    }
    if seen:
        found["views"] = {"count": seen.count if settings.views is None else settings.views} | seen.record(1, data)
    if at_work:
        found["methods"] = [
            {
                "name": term.name,
                "weight": weight,
                "schedule": term.schedule,
                "settings": session.method(term, candidate).model_dump(mode="json"),
            }
            for term, weight in at_work
        ]
        found["sources"] = [
            {"name": source.name, "heads": session.head_digests(source), "probe": session.probe_digest(source)}
            for source in plan.run.sources
        ]
        found["own_outputs"] = [session.head_digests(source) for source in chain(*plan.run.own_outputs.values())]
        found["shuffled"] = plan.run.shuffle_teachers
        if session.live:
            found["teacher"] = "live"
    elif blueprint.teachers:
        found["sources"] = blueprint.teachers
    # As it comes back from the record: lists for tuples.
    inputs: dict[str, Any] = json.loads(json.dumps(found))
    return inputs


def _labels_digest(session: Session, split: int) -> str:
    """Of the validation rows' labels, which choose."""
    rows = session.data.split(split).val
    return sha256(session.data.labels[rows].tobytes()).hexdigest()[:32]


@cache
def _code(*plugins: str) -> str:
    """A digest of the code that a trial runs: `trial.py`, these modules, and all of the library that they import."""
    return Code().digest("pipeline.training.trial", *plugins)


@dataclass(frozen=True)
class Unused:
    """Trials that no run uses, and folders that killed processes left.

    Attributes:
        folders: where they are.
        bytes: their size together.
        deleted: whether they were deleted; if not, they are only listed.
    """

    folders: tuple[Path, ...]
    bytes: int
    deleted: bool

    def __str__(self) -> str:
        size = f"{count(len(self.folders), 'trial')} that no run of params.yaml uses, {self.bytes / 1e6:,.1f} MB"
        if self.deleted or not self.folders:
            return f"{size}{' deleted' if self.deleted else ''}"
        return "\n".join([*map(str, self.folders), f"{size}; pass --delete to delete them"])


class Ledger:
    """The finished trials of a project. Safe to use from several processes."""

    def __init__(self, project: Project):
        self.folder = project.trials
        self._lock = Lock(project.lock("trials"))

    def __contains__(self, digest: str) -> bool:
        """Whether the trial is finished, and its record and scores are as they were written. `read` checks the rest."""
        folder = self.folder / digest
        try:
            sums = _sums(folder)
            return RECORD in sums and all(
                _sha256(folder / name) == sums[name] for name in (RECORD, ROWS) if name in sums
            )
        except (FileNotFoundError, ValueError, UserError):
            return False

    def read(self, digest: str) -> TrialRecord | None:
        """The record of a trial; None if it is not finished. A damaged one is removed, so that it is trained again."""
        folder = self.folder / digest
        try:
            sums = _sums(folder)
            if all(_sha256(folder / name) == value for name, value in sums.items()):
                record = TrialRecord.read(folder / RECORD)
                if set(sums) == ({RECORD, FAILURE} & sums.keys() if record.diverged else {RECORD, ROWS, *STUDENT}):
                    return record
        except (FileNotFoundError, ValueError, UserError):
            pass
        if folder.exists():
            self._remove(folder)
        return None

    def commit(
        self, digest: str, record: TrialRecord, result: TrialResult | None = None, failure: Failure | None = None
    ) -> None:
        """Keep a finished trial, atomically. If another process has committed it first, that one is kept.

        Args:
            digest: its name.
            record: of it.
            result: of a training that did not diverge.
            failure: the step of one that did, if it was found.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        make_folder(self.folder)
        try:
            with scratch_folder(self.folder / digest) as scratch:
                partial = scratch / digest
                partial.mkdir()
                record.write(partial / RECORD)
                if result is not None:
                    save_student(partial, result.blueprint, result.student)
                    write_atomically(partial / ROWS, save({"scores": result.row_scores}))
                if failure is not None:
                    failure.write(partial)
                names = sorted(path.name for path in partial.iterdir())
                (partial / SUMS).write_text("".join(f"{_sha256(partial / name)}  {name}\n" for name in names))
                for name in (*names, SUMS):
                    sync_path(partial / name)
                sync_folder(partial)
                try:
                    os.rename(partial, self.folder / digest)
                except OSError:
                    # The folder exists and is not empty: another process was first.
                    if digest not in self:
                        raise
                sync_folder(self.folder)
        except OSError as error:
            raise explained(error, self.folder) from error

    def checkpoint(self, digest: str) -> Path:
        """The folder for the checkpoint of a trial that is not finished; `unused` finds those that are left."""
        return self.folder / f".{digest}"

    def row_scores(self, digest: str) -> np.ndarray | None:
        """The contribution of each validation row to the score of a finished trial [val]; None if it diverged.

        Raises:
            UserError: they are not the scores of a trial.
        """
        path = self.folder / digest / ROWS
        try:
            scores = load(read_regular(path))["scores"]
        except FileNotFoundError:
            return None
        except (KeyError, ValueError, SafetensorError):
            scores = np.empty((0, 0))
        if scores.ndim != 1 or not np.issubdtype(scores.dtype, np.floating):
            raise UserError(f"{path}: not the scores of a trial; delete {path.parent}, and train again")
        return scores

    def failure(self, digest: str) -> Failure:
        """The step at which a trial diverged.

        Raises:
            UserError: it is not there, or damaged.
        """
        return Failure.read(self.folder / digest)

    def copy_student(self, digest: str, folder: Path) -> None:
        """Copy a trial's student to a folder. A copy, so that nothing is shared."""
        folder.mkdir(parents=True)
        for name in STUDENT:
            shutil.copyfile(self.folder / digest / name, folder / name)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While it is active, no trial is deleted. Any number of processes may be inside."""
        self._lock.acquire(exclusive=False, patience=inf)
        try:
            yield
        finally:
            self._lock.release()

    def check_shared(self) -> None:
        """In a worker, make sure that this is the ledger of the command that it works for, which is `in_use` there.

        Raises:
            UserError: it is another one, as on a machine with a copy of the project.
        """
        lock = Lock(self._lock.path)
        if lock.acquire():
            lock.release()
            raise UserError(
                f"{self.folder}: not the folder of the command that this process works for, or its file system has no "
                "locks between machines; trainings need a file system with locks that all machines share"
            )

    def unused(self, used: Collection[str], delete: bool = False) -> Unused:
        """Trials other than `used`, and unfinished trials of killed processes.

        Args:
            used: digests to keep.
            delete: remove the others, not only list them.

        Raises:
            UserError: they cannot be deleted now, because a training is running.
        """
        if not self._lock.acquire():
            raise UserError(f"{self.folder}: a training is running ({self._lock.owner()}); try again when it is done")
        try:
            folders = sorted(path for path in self.folder.glob("*") if path.is_dir() and path.name not in used)
            size = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
            for folder in folders if delete else ():
                self._remove(folder)
        finally:
            self._lock.release()
        return Unused(tuple(folders), size, delete)

    def _remove(self, folder: Path) -> None:
        """Delete a trial. It is renamed first: a kill must not leave half of it under its name."""
        try:
            with scratch_folder(folder) as scratch:
                folder.rename(scratch / folder.name)
        except FileNotFoundError:
            return
        except OSError as error:
            raise explained(error, folder) from error


def _sums(folder: Path) -> dict[str, str]:
    """The digests of a trial's files, by name. Raises `ValueError` if they are no text."""
    lines = read_regular(folder / SUMS, TEXT_BYTES).decode("utf-8").splitlines()
    return {name: value for value, _, name in (line.partition("  ") for line in lines)}


def _sha256(path: Path) -> str:
    with os.fdopen(open_regular(path), "rb") as file:
        return file_digest(file, "sha256").hexdigest()
