"""Cost: what the student and its teachers take, the time of every stage, and the files of a run."""

import pytest

from pipeline.reporting import Stored
from pipeline.reporting.sections import costs

from ..records import AFT, KD, NONE, Workspace

STORES = (Stored("minilm", rows=9000, bytes=7_004_160, width=384),)


@pytest.fixture
def project(tmp_path):
    made = Workspace(tmp_path)
    made.run("none", NONE, methods=[])
    made.run("aft", AFT)
    return made


def test_the_student_and_the_teacher_are_compared(project):
    told = project.section(costs, stores=STORES).told
    assert "student bag 612,345 parameters, 2 kB on disk; one training takes 3.1 s to 6.2 s." in told
    assert "teacher minilm 6.67 ms per row, 1 min 00 s in all; 7 MB of stored features, 778 bytes per row." in told


def test_time_and_bytes_are_those_of_the_stages(project):
    told = project.section(costs, stores=STORES).told
    assert "extract minilm 9,000 rows of 384 numbers 1 min 00 s 150 rows/s 7 MB" in told
    assert "probe minilm 5 splits 1.2 s" in told
    assert "train aft 10 trainings of 1,000 steps 31 s 3.1 s each" in told
    assert "evaluate none 5 students on 3,000 rows 2.1 s" in told
    # 60 + 1.2 + 2 * 31.2 + 2 * 2.1 seconds
    assert "All stages with a time took 2 min 08 s together." in told
    assert "A dash means" not in told


def test_trainings_that_were_found_are_counted_apart_from_those_that_were_done(project):
    project.run("kd", KD, trained=4)
    project.run("known", KD, trained=0)
    told = project.section(costs).told
    assert "10 trainings of 1,000 steps; 6 found, 4 trained 31 s 7.8 s each" in told
    assert "10 trainings of 1,000 steps; 10 found, 0 trained 31 s evaluate" in told.replace("train known", "")


def test_without_logs_there_is_no_time_and_the_page_says_why(project):
    for path in (project.root / "logs").rglob("*.json"):
        path.unlink()
    told = project.section(costs, stores=STORES).told
    assert "extract minilm 9,000 rows of 384 numbers — 7 MB" in told
    assert "A dash means that there is no log of the stage." in told
    assert "All stages" not in told
    assert project.report().metrics["aft"]["seconds"] is None


def test_one_of_a_thing_is_singular(tmp_path):
    project = Workspace(tmp_path)
    project.run("none", NONE[:1], methods=[])
    told = project.section(costs).told
    assert "1 training of 1,000 steps" in told and "1 student on 3,000 rows" in told


def test_the_files_of_the_best_run_are_named(project):
    project.run("shuffled", [x + 0.1 for x in AFT], shuffled=True)
    told = project.section(costs).told
    assert (
        "runs/aft/students/ a folder for each seed (0, 1, 2, 3, 4) with student.json (26 bytes) and "
        "weights.safetensors (1.98 kB)" in told
    )
    assert "runs/aft/ run.json (what was tried and chosen) and curves.csv (every step)" in told


def test_a_student_of_features_needs_its_teachers(project):
    project.run("probe", AFT, methods=[], student="head", reads="features")
    told = project.section(costs).told
    assert "It reads its teachers' features." in told and "It is used without its teachers." in told
