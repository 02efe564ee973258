"""The model card of an export says everything that a user of the student has to know."""

import re
from pathlib import Path

import pytest

from pipeline.data import Dataset
from pipeline.functional.statistics import paired
from pipeline.params import Params
from pipeline.predict import Predictor
from pipeline.project import Project
from pipeline.records import BatchCost, CostRecord, EvaluationRecord, ExportRecord, ModelCost, RunRecord
from pipeline.serving import card

from ..conftest import PARAMS
from .made import made_export


def test_data_teachers_method_scores_cost_and_commit_are_there(
    trained_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project, data = Project(trained_project), Dataset.open(trained_project / "data")
    made_export(tmp_path / "out", {"family": "bag_of_words", "width": 8}, data)
    assert Predictor(tmp_path / "out").kind == "text"
    export = ExportRecord.read(tmp_path / "out" / "export.json").model_copy(update={"run": "none", "seed": 1})
    run = RunRecord.read(project.run("none") / "run.json")
    costs = tuple(
        ModelCost(
            name=name,
            parameters=1234,
            bytes=4936,
            batches=tuple(BatchCost(rows=n, rows_per_second=n / 0.002, p50=2.0, p95=3.5) for n in (1, 32, 256)),
        )
        for name in ("student bag", "teacher wise")
    )
    record = CostRecord(run="none", students=run.students_digest, device="cpu", threads=1, models=costs)
    monkeypatch.setattr(card.CostRecord, "read", classmethod(lambda cls, *arguments: record))
    monkeypatch.setattr(card, "commit", lambda root: {"commit": "abc123", "changed": True})
    teachers = {"wise": {"family": "transformers", "model": "package:numpy/model"}}
    taught = run.model_copy(update={"sources": ("wise", "loud/layer:1")})
    text = card.model_card(export, taught, Params(PARAMS | {"teachers": teachers}), project, data.manifest)
    for part in (
        "trained with aft with the help of wise, loud/layer:1",
        "A logit for each class: bad, good, plain.",
        f"`reviews.csv`, {len(data):,} texts; digest `{data.digest}`",
        f"{run.labelled:,} with a label that was used, {run.unlabelled:,} without",
        "- loud: no longer in params.yaml; licence not known here.",
        "- Method: labels alone",
        "seed 1 of 0, 1, 2",
        "| student bag | 1,234 | 4,936 | 32 | 16,000 | 2 | 3.5 |",
        "| teacher wise | 1,234 | 4,936 | 256 | 128,000 | 2 | 3.5 |",
        "- commit abc123, with changes",
    ):
        assert part in text
    assert re.search(r"^- wise: transformers, `package:numpy/model`; .*BSD.* \(of the package numpy\)\.$", text, re.M)
    scores = [each.scores["accuracy"] or 0.0 for each in EvaluationRecord.read(project.evaluation("none")).results]
    (found,) = re.findall(r"^\| accuracy \| (\S+) % \((\S+) to (\S+)\) \| (\S+) % \|$", text, re.M)
    mean, low, high, own = map(float, found)
    expected = paired(scores)
    assert (mean, low, high) == pytest.approx((100 * expected.mean, 100 * expected.low, 100 * expected.high), abs=0.06)
    assert own == pytest.approx(100 * scores[1], abs=0.06)
