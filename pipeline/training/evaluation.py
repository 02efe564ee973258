"""Scores of trained students on test rows, and of their teachers' probes on the same rows."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

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
from pipeline.students import Inputs, Student, load_student, student_outputs
from pipeline.tasks import Task
from pipeline.training.outputs import Part, SavedOutputs, read_outputs, write_outputs
from pipeline.training.representation import CKA_ROWS, representation, sample
from pipeline.verified import VerifiedFiles

Features = dict[int, dict[str, tuple[np.ndarray, np.ndarray]]]
"""By seed and part (`labelled`, `val` or `test`), some rows of it, and the features that the student has of them."""

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
    read: Features = {}
    write_outputs(saved, _outputs(folder, record, data, sources, device, read))
    results, details, references, representations = [], [], [], []
    test_rows = 0
    # One seed at a time: in the file they are in the order of the record.
    for seed, blocks in groupby(read_outputs(saved), key=lambda block: block.seed):
        number = seed % data.splits
        task = data.split_task(number)
        parts = {block.part: block for block in blocks}
        test, val = parts["test"], parts.get("val")
        results.append(_scores(task, seed, number, test.outputs, test.labels))
        details.append(_details(task, test, val))
        rows = data.split(number).test
        probes = [SavedProbe(project, features, number, data).outputs(rows) for features in sources]
        if sources:
            together = task.combine([torch.from_numpy(outputs) for outputs in probes])
            references.append(_scores(task, seed, number, together.numpy(), test.labels))
        if seed in read:
            some, _ = read[seed]["test"]
            compared = some[sample(len(some), CKA_ROWS)]
            teachers = {
                features.name: (features.reader()(compared).astype(np.float32), outputs)
                for features, outputs in zip(sources, probes, strict=True)
            }
            features_of = {part: values for part, (_, values) in read[seed].items()}
            labels = {part: data.labels[some] for part, (some, _) in read[seed].items()}
            representations.append(representation(task, seed, features_of, labels, test.outputs, teachers))
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
        features=tuple(representations),
        files={saved.name: file_checksum(saved)},
    )
    evaluation.write(project.evaluation(name))
    return evaluation


def _outputs(
    folder: Path,
    record: RunRecord,
    data: Dataset,
    sources: Sequence[SourceFeatures],
    device: torch.device,
    read: Features,
) -> Iterator[SavedOutputs]:
    """The outputs of the run's students for the validation and test rows of their splits.

    Their features of some rows are put into `read`, for seeds where there is something to fit to them.
    """
    for seed in record.seeds:
        split = data.split(seed % data.splits)
        blueprint, student = load_student(folder / "students" / str(seed), data.task.outputs)
        inputs = blueprint.inputs(data, {features.name: features for features in sources})
        student.to(device)
        if blueprint.reads != "features" and len(split.val) and _can_be_probed(data, split.labelled):
            rows = split.labelled[sample(len(split.labelled))]
            read[seed] = {"labelled": (rows, _forward(student, inputs, rows, device)[0])}
        parts: dict[Part, np.ndarray] = {"val": split.val, "test": split.test}
        for part, rows in parts.items():
            if len(rows):
                of_some, outputs = _forward(student, inputs, rows, device)
                if seed in read:
                    read[seed][part] = rows[sample(len(rows))], of_some
                yield SavedOutputs(seed, part, data.ids.take(rows), data.labels[rows], outputs)
        # Before the file of these outputs gets its name.
        for features in sources if blueprint.reads == "features" else ():
            features.reader().verified()


def _forward(
    student: Student, inputs: Inputs, rows: np.ndarray, device: torch.device
) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "n c"]]:
    """A student's features of `sample(n)` of n rows, and its outputs for all of them, float32."""
    kept = np.zeros(len(rows), bool)
    kept[sample(len(rows))] = True
    features, outputs, start = [], [], 0
    for some, all_outputs in student_outputs(student, inputs, rows, device):
        features.append(some.float().cpu().numpy()[kept[start : start + len(some)]])
        outputs.append(all_outputs.float().cpu().numpy())
        start += len(some)
    return np.concatenate(features), np.concatenate(outputs)


def _can_be_probed(data: Dataset, labelled: np.ndarray) -> bool:
    """Whether a linear probe can be fitted to the labels of the rows of `sample`."""
    try:
        data.task.check_training(data.labels[labelled[sample(len(labelled))]], "")
    except UserError:
        return False
    return True


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
