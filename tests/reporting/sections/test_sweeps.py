"""Sweeps in the report: the best point first, paired differences, and what became of the other points."""

from pipeline.functional.statistics import paired
from pipeline.provenance import digest_of
from pipeline.records import PointRecord, SweepRecord
from pipeline.reporting.sections import sweeps
from pipeline.reporting.text import change

from ..records import CLASSIFICATION, NONE, Workspace


def point(weight: float, scores: tuple[float, ...], outcome: str = "done") -> PointRecord:
    return PointRecord(values={"weight": weight}, run={}, trials=("t",), val_scores=scores, outcome=outcome)


def with_sweep(project: Workspace, *points: PointRecord, data: str = digest_of({})) -> dict[str, object]:
    record = SweepRecord(sweep="mine", data=data, metric=CLASSIFICATION[0], seeds=(0, 1, 2), points=points)
    record.write(project.project.sweep("mine"))
    return {"sweep": {"mine": {}}}


def test_a_sweep_shows_its_best_point_its_table_and_its_picture(tmp_path):
    project = Workspace(tmp_path)
    project.run("none", NONE)
    low, high = (0.60, 0.62, 0.61), (0.64, 0.65, 0.69)
    sections = with_sweep(
        project, point(1.0, low), point(3.0, (), "diverged"), point(10.0, high), point(30.0, (0.5, 0.4), "dropped")
    )
    page = project.section(sweeps, **sections)
    found = paired([x - y for x, y in zip(low, high, strict=True)])
    assert [*filter(None, page.rows)] == ["mine/2", "mine/0"]
    assert page.rows["mine/2"] == ["mine/2", "10", "66.00", "", ""]
    assert page.rows["mine/0"][:4] == ["mine/0", "1", "61.00", change(found.mean, CLASSIFICATION[0])]
    assert "4 points, 3 seeds each; 1 clearly worse after some seeds" in page.told and "1 diverged" in page.told
    assert "Crosses are means of points" in page.told
    assert "svg" in page.tags


def test_a_sweep_that_is_not_finished_or_of_other_data_is_a_line(tmp_path):
    project = Workspace(tmp_path)
    project.run("none", NONE)
    inputs = project.inputs(sweep={"mine": {}})
    assert inputs.sweeps == () and "mine: this sweep is not finished; run `aft sweep mine`" in inputs.missing
    inputs = project.inputs(**with_sweep(project, point(1.0, (0.5, 0.5, 0.5)), data="1" * 32))
    assert inputs.sweeps == () and any("run `aft sweep mine` again" in line for line in inputs.missing)
    assert project.section(sweeps).told == ""


def test_a_sweep_without_a_point_of_all_seeds_still_has_its_picture(tmp_path):
    project = Workspace(tmp_path)
    project.run("none", NONE)
    page = project.section(sweeps, **with_sweep(project, point(1.0, (), "diverged"), point(2.0, (0.5,), "diverged")))
    assert "2 diverged (NaN or inf)" in page.told and "svg" in page.tags and "table" not in page.tags
