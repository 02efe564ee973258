"""Where the trainings come from."""

import pytest

from ..html import page_of
from ..records import KD, NONE, Workspace


@pytest.fixture
def project(tmp_path):
    made = Workspace(tmp_path)
    made.run("none", NONE, methods=[])
    made.run("kd", KD)
    return made


def test_commit_device_versions_and_settings_are_shown(project):
    told = page_of(project.report(train={"steps": 1000})).told
    assert f"runs none and kd commit {'f' * 40} device cpu versions python 3.11.9, torch 2.14.0" in told
    assert "steps: 1000" in told
    assert "several commits" not in told


def test_runs_of_two_commits_are_remarked(project):
    project.log("train", "kd", seconds=1.0, provenance={"commit": "a" * 40, "changed": True})
    told = page_of(project.report()).told
    assert "The runs come from several commits, environments or devices." in told
    assert "a" * 40 + ", with uncommitted changes" in told


def test_a_run_without_a_log_is_named(project):
    project.project.log("train", "kd").unlink()
    assert "No training log here: kd." in page_of(project.report()).told
