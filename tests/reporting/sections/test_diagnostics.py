"""The table of training diagnostics: means over seeds, and collapsed students."""

import pytest

from ..html import page_of
from ..records import AFT, NONE, Workspace


@pytest.fixture
def project(tmp_path):
    made = Workspace(tmp_path)
    made.run("none", NONE, methods=[])
    return made


def test_values_are_means_over_seeds(project):
    project.run("aft", AFT)
    diagnostics = project.read("runs/aft/run.json")["diagnostics"]
    for k, of in enumerate(diagnostics):
        of["gradient_ratio_end"] = k
        of["largest_share"] = 0.1 * k
    project.change("runs/aft/run.json", diagnostics=diagnostics)
    told = page_of(project.report()).told
    assert "aft no 20 0.8 → 2 7.9 → 8 0.21 0.35" in told
    assert "none no 41 — 7.9 → 8 — —" in told


def test_every_method_of_a_run_is_shown_with_its_own_chance_level(project):
    project.run("both", AFT, weights=(0.0, 3.0), methods=["aft", "kd"])
    levels = {"aft": {"end": 0.21, "chance": 0.35}, "kd": {"end": 0.9, "chance": 0.95}}
    diagnostics = [of | {"penalties": levels} for of in project.read("runs/both/run.json")["diagnostics"]]
    project.change("runs/both/run.json", diagnostics=diagnostics)
    assert "aft 0.21; kd 0.9 0.35; 0.95" in page_of(project.report()).told


def test_collapsed_seeds_are_counted(project):
    project.run("aft", AFT, collapsed=(1, 3))
    assert "aft 2 of 5 seeds 41" in page_of(project.report()).told


def test_a_task_without_classes_has_no_column_of_the_most_frequent_prediction(project):
    assert "most frequent prediction, %" in page_of(project.report()).told
    project.run("none", NONE, methods=[], share=None)
    assert "most frequent prediction, %" not in page_of(project.report()).told
