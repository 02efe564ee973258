"""Scores of trained students on test rows, and of their teachers' probes on the same rows."""

import numpy as np
import torch

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.machine import Machine
from pipeline.params import Params
from pipeline.probing import SavedProbe
from pipeline.project import Project
from pipeline.records import EvaluationRecord, RunRecord, SeedScores
from pipeline.runs import probe_digest
from pipeline.sources import Source
from pipeline.store import SourceFeatures
from pipeline.students import load_student, predict
from pipeline.tasks import Task
from pipeline.verified import VerifiedFiles


def evaluate(name: str, params: Params, project: Project = Project()) -> EvaluationRecord:
    """Test the students of the run `name`; write evaluations/<name>.json.

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
    results, references = [], []
    test_rows = 0
    for seed in record.seeds:
        number = seed % data.splits
        rows = data.split(number).test
        if not len(rows):
            raise UserError(f"{project.data}: no test rows in split {number}; set dataset.test")
        if record.splits[str(seed)] != data.split_digest(number):
            raise UserError(f"{folder}: trained on other rows, splits or labels than these; run `aft train {name}`")
        blueprint, student = load_student(folder / "students" / str(seed), task.outputs)
        inputs = blueprint.inputs(data, {features.name: features for features in sources})
        labels = data.labels[rows]
        task = data.split_task(number)
        outputs = predict(student.to(device), inputs, rows, device)  # [test, c]
        results.append(_scores(task, seed, number, outputs, labels))
        if sources:
            probes = [SavedProbe(project, features, number, data) for features in sources]
            together = task.combine([torch.from_numpy(probe.outputs(rows)) for probe in probes])
            references.append(_scores(task, seed, number, together.numpy(), labels))
        test_rows = len(rows)
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
    )
    evaluation.write(project.evaluation(name))
    return evaluation


def _scores(task: Task, seed: int, split: int, outputs: np.ndarray, labels: np.ndarray) -> SeedScores:
    return SeedScores(
        seed=seed,
        split=split,
        scores=task.scores(outputs, labels),
        collapsed=task.collapsed(outputs),
    )
