"""Scores of trained students on test rows, and of their teachers' probes on the same rows."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.checksum import file_checksum
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.machine import Machine
from pipeline.params import Params
from pipeline.probing import SavedProbe
from pipeline.project import Project
from pipeline.records import ClassRecord, DetailsRecord, EvaluationRecord, RunRecord, SeedScores
from pipeline.runs import probe_digest
from pipeline.sources import Source
from pipeline.store import SourceFeatures
from pipeline.students import load_student, predict
from pipeline.tasks import Task
from pipeline.training.outputs import Part, SavedOutputs, read_outputs, write_outputs
from pipeline.verified import VerifiedFiles

MOST_CLASSES = 100
"""With more classes, no confusion is recorded; it can be computed from the saved outputs."""


def evaluate(name: str, params: Params, project: Project = Project()) -> EvaluationRecord:
    """Test the students of the run `name`; write evaluations/<name>.json, and their outputs next to it.

    The outputs of several sources' linear probes count together, as the task combines them.

    Raises:
        UserError: the run was not trained, or on another dataset; there are no test rows.
    """
    folder = project.run(name)
    record = RunRecord.read(folder / "run.json", name)
    VerifiedFiles(folder, record.files, f"run `aft train {name}` again").finish()
    data = Dataset.open(project.data)
    task = data.task
    device = params.read(Machine, "machine").torch_device()
    sources = [SourceFeatures.open(project, Source.parse(text)) for text in record.sources]
    for features in sources:
        features.store.check(dataset=data.digest, ids=data.ids)
    for seed in record.seeds:
        number = seed % data.splits
        if not len(data.split(number).test):
            raise UserError(f"{project.data}: no test rows in split {number}; set dataset.test")
        if record.splits[str(seed)] != data.split_digest(number):
            raise UserError(f"{folder}: trained on other rows, splits or labels than these; run `aft train {name}`")
    saved = project.outputs(name)
    write_outputs(saved, _outputs(folder, record, data, sources, device))
    results, details, references = [], [], []
    test_rows = 0
    blocks = {(block.seed, block.part): block for block in read_outputs(saved)}
    for seed in record.seeds:
        number = seed % data.splits
        task = data.split_task(number)
        test, val = blocks[seed, "test"], blocks.get((seed, "val"))
        results.append(_scores(task, seed, number, test.outputs, test.labels))
        details.append(_details(task, test, val))
        if sources:
            rows = data.split(number).test
            probes = [SavedProbe(project, features, number, data) for features in sources]
            together = task.combine([torch.from_numpy(probe.outputs(rows)) for probe in probes])
            references.append(_scores(task, seed, number, together.numpy(), test.labels))
        test_rows = len(test.ids)
    evaluation = EvaluationRecord(
        run=name,
        student=record.student.name,
        students=record.students_digest,
        sources=record.sources,
        data=data.manifest.files_digest,
        probes={features.name: probe_digest(project, features.source) for features in sources},
        task=task.name,
        metrics=task.metrics,
        outputs=task.outputs,
        test_rows=test_rows,
        results=tuple(results),
        probe=tuple(references) or None,
        more=task.more,
        details=tuple(details),
        files={saved.name: file_checksum(saved)},
    )
    evaluation.write(project.evaluation(name))
    return evaluation


def _outputs(
    folder: Path, record: RunRecord, data: Dataset, sources: Sequence[SourceFeatures], device: torch.device
) -> Iterator[SavedOutputs]:
    """The outputs of the run's students for the validation and test rows of their splits."""
    for seed in record.seeds:
        split = data.split(seed % data.splits)
        blueprint, student = load_student(folder / "students" / str(seed), data.task.outputs)
        inputs = blueprint.inputs(data, {features.name: features for features in sources})
        student.to(device)
        parts: dict[Part, np.ndarray] = {"val": split.val, "test": split.test}
        for part, rows in parts.items():
            if len(rows):
                yield SavedOutputs(
                    seed, part, data.ids[rows], data.labels[rows], predict(student, inputs, rows, device)
                )
        # Before the file of these outputs gets its name.
        for features in sources if blueprint.reads == "features" else ():
            features.reader().verified()


def _details(task: Task, test: SavedOutputs, val: SavedOutputs | None) -> DetailsRecord:
    none = test.outputs[:0], test.labels[:0]
    fitted_on = (val.outputs, val.labels) if val is not None else none
    of_classes = task.class_scores(test.outputs, test.labels)
    columns = zip(*of_classes.values(), strict=True) if of_classes else ()
    rows = (dict(zip(of_classes, values, strict=True)) for values in columns)
    named = zip(task.classes, rows, strict=True) if of_classes else ()
    confusion = task.confusion(test.outputs, test.labels) if len(task.classes) <= MOST_CLASSES else None
    return DetailsRecord(
        seed=test.seed,
        scores=task.more_scores(test.outputs, test.labels, *fitted_on),
        classes=tuple(ClassRecord(name=name, scores=scores) for name, scores in named),
        confusion=() if confusion is None else tuple(tuple(line) for line in confusion.tolist()),
    )


def _scores(task: Task, seed: int, split: int, outputs: np.ndarray, labels: np.ndarray) -> SeedScores:
    return SeedScores(
        seed=seed,
        split=split,
        scores=task.scores(outputs, labels),
        collapsed=task.collapsed(outputs),
    )
