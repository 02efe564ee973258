"""The table of probes: one line for each source of the runs."""

from ..html import page_of
from ..records import AFT, NONE, Workspace


def test_every_source_has_a_line_with_its_means(tmp_path):
    project = Workspace(tmp_path)
    project.run("none", NONE, methods=[])
    assert "Its strength" not in page_of(project.report()).told and "Teachers" not in page_of(project.report()).text
    project.probe("minilm/layer:4")
    project.run("aft", AFT, teachers=("minilm", "minilm/layer:4"))
    told = page_of(project.report()).told
    # 0.69 to 0.694: their mean is 0.692, and the standard error that of five equal steps of 0.1 points.
    assert "minilm 5 400 70.00 69.20 ± 0.07 71.00 ± 0.00 0.01" in told
    assert "minilm/layer:4 5 400 70.00 69.20 ± 0.07 71.00 ± 0.00 0.01" in told


def test_scores_that_are_not_there_are_dashes(tmp_path):
    project = Workspace(tmp_path)
    project.run("aft", AFT)
    record = project.read("probes/minilm/pooled/probe.json")
    for split in record["splits"]:
        split["kernel_test"], split["test"] = {}, {}
    project.write("probes/minilm/pooled/probe.json", record)
    assert "minilm 5 400 70.00 — — 0.01" in page_of(project.report()).told
