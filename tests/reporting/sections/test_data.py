"""Facts about the data."""

from ..html import page_of
from ..records import NONE, Workspace


def test_rows_classes_and_what_was_left_out_are_shown(tmp_path):
    project = Workspace(tmp_path)
    project.run("none", NONE, methods=[])
    told = page_of(project.report()).told
    assert "family tweets, min_confidence 0.6" in told
    assert "9,000 in 3 classes, 0 without a label" in told
    assert "400 rows with a label, 5,200 without" in told
    assert "duplicate: 1,204; duplicates disagree about the label: 310." in told
    assert "unreadable" not in told
    assert "class labelled unlabelled val test negative 133 1,700 133 1,000" in told
    assert "in the first of 5 splits" in told


def test_many_classes_have_no_table(tmp_path):
    project = Workspace(tmp_path)
    project.run("none", NONE, methods=[])
    rows = {"labelled": [1] * 31, "test": [1] * 31}
    project.change("data/manifest.json", classes=[f"c{k}" for k in range(31)], rows_of_class=[rows] * 5)
    told = page_of(project.report()).told
    assert "9,000 in 31 classes" in told and "c30" not in told
