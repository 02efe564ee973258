"""Where the trainings come from."""

import pytest

from pipeline.reporting.sections import provenance

from ..records import KD, NONE, Workspace


@pytest.fixture
def project(tmp_path):
    made = Workspace(tmp_path)
    made.run("none", NONE, methods=[])
    made.run("kd", KD)
    return made


def test_commit_device_versions_and_settings_are_shown(project):
    told = project.section(provenance, train={"steps": 1000}).told
    assert f"runs none and kd commit {'f' * 40} device cpu versions python 3.11.9, torch 2.14.0" in told
    assert "steps: 1000" in told
    assert "several commits" not in told


def test_runs_of_two_commits_are_remarked(project):
    project.log("train", "kd", seconds=1.0, provenance={"commit": "a" * 40, "changed": True})
    told = project.section(provenance).told
    assert "The runs come from several commits, environments or devices." in told
    assert "a" * 40 + ", with uncommitted changes" in told


def test_a_run_without_a_log_is_named(project):
    project.project.log("train", "kd").unlink()
    assert "Without a training log: kd." in project.section(provenance).told
