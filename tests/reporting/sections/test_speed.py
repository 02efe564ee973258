"""Accuracy against speed: what `aft cost` measured of the runs, with their test scores and intervals."""

import pytest

from pipeline.functional.statistics import paired
from pipeline.records import BatchCost, CostRecord, ModelCost, RunRecord
from pipeline.reporting.sections import speed

from ..records import AFT, NONE, Workspace


@pytest.fixture
def project(tmp_path):
    made = Workspace(tmp_path)
    made.run("none", NONE, methods=[])
    made.run("aft", AFT)
    return made


def model(name: str, rate: float) -> ModelCost:
    batches = tuple(
        BatchCost(rows=rows, rows_per_second=rate * share, p50=1000 * rows / (rate * share), p95=1.0)
        for rows, share in ((1, 0.1), (32, 1.0), (256, 2.0))
    )
    return ModelCost(name=name, parameters=1_000, bytes=4_000, batches=batches)


def measure(project: Workspace, name: str, *models: ModelCost, threads: int = 1) -> None:
    students = RunRecord.read(project.project.run(name) / "run.json", name).students_digest
    record = CostRecord(run=name, students=students, device="cpu", threads=threads, models=models)
    record.write(project.project.log("cost", name))


def test_without_a_measured_cost_there_is_no_section(project):
    assert speed.context(project.inputs()) is None


def test_scores_intervals_and_rows_a_second_are_those_of_the_records(project):
    measure(project, "none", model("student bag", 3_000.0))
    measure(project, "aft", model("student bag", 3_200.0), model("teacher minilm", 40.0))
    told = project.section(speed).told
    for name, scores, rates in (("none", NONE, "300 3,000 6,000"), ("aft", AFT, "320 3,200 6,400")):
        found = paired(scores)
        low, high = (f"{100 * end:.2f}" for end in (found.low, found.high))
        assert f"{name} 1,000 {rates} {100 * found.mean:.2f} {low} to {high}" in told
    assert "probe of minilm 1,000 4 40 80" in told
    assert "Not measured" not in told and "(cpu, 1 thread)" in told


def test_teachers_that_are_used_together_are_served_one_after_the_other(tmp_path):
    project = Workspace(tmp_path)
    project.run("aft", AFT, teachers=["wide", "fast"])
    measure(project, "aft", model("student bag", 3_000.0), model("teacher wide", 100.0), model("teacher fast", 100.0))
    assert "probe of wide + fast 2,000 5 50 100" in project.section(speed).told


def test_a_cost_of_other_students_is_left_out_and_said(project):
    measure(project, "none", model("student bag", 3_000.0))
    measure(project, "aft", model("student bag", 3_200.0))
    path = project.project.log("cost", "aft")
    CostRecord.read(path, "aft").model_copy(update={"students": "another"}).write(path)
    inputs = project.inputs()
    assert list(inputs.costs) == ["none"]
    assert any("of other students than aft has now; run `aft cost aft` again" in line for line in inputs.missing)
    assert "Not measured: aft." in project.section(speed).told


def test_speeds_of_two_machines_are_not_drawn_together(project):
    measure(project, "none", model("student bag", 3_000.0))
    measure(project, "aft", model("student bag", 9_000.0), threads=16)
    inputs = project.inputs()
    assert list(inputs.costs) == ["none"]
    assert any(
        "measured on cpu, 16 threads, and none on cpu, 1 thread; run `aft cost aft`" in x for x in inputs.missing
    )
