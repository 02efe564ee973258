"""The figure of a search: which candidates share a line, and what is remarked."""

import re

from pipeline.reporting.inputs import read_inputs
from pipeline.reporting.sections.search import candidates

from ..html import page_of
from ..records import AFT, NONE, Workspace, demo


def test_settings_of_a_method_have_a_line_each_that_starts_at_weight_0(tmp_path):
    project = Workspace(tmp_path)
    project.run("tuned", AFT, weights=(0.0, 3.0, 7.0), chosen=7.0, methods=["aft"])
    plain, one, other = project.read("runs/tuned/run.json")["candidates"]
    tried = [plain, *(c | {"settings": {"methods.aft.queue": q}} for c, q in ((one, 0), (other, 64)))]
    project.change("runs/tuned/run.json", candidates=tried, chosen_settings={"methods.aft.queue": 64})
    curves = project.root / "runs" / "tuned" / "curves.csv"
    curves.write_text(re.sub(r"^(\d+),7,", r'\1,"7, aft.queue 64",', curves.read_text(), flags=re.M))
    ticks, lines = candidates(read_inputs(project.params(), project.project, ()).outcomes[0])
    assert ticks == ["0", "3", "7"]
    assert [line.settings for line in lines] == ["queue 0", "queue 64"]
    assert [[scores is not None for scores in line.scores] for line in lines] == [
        [True, True, False],
        [True, False, True],
    ]
    assert [line.chosen for line in lines] == [None, 2]
    told = page_of(project.report()).told
    assert "0, 3, 7; aft.queue 0, 64" in told
    assert "7 is the largest weight tried for aft" in told
    # Weight 0 is not the largest of those tried with the settings that it does not have.
    project.change("runs/tuned/run.json", chosen=[0.0], chosen_settings={})
    curves.write_text(re.sub(r'^(\d+),"7, aft.queue 64",', r"\1,0,", curves.read_text(), flags=re.M))
    assert "largest weight tried" not in page_of(project.report()).told


def test_without_methods_the_settings_are_the_axis(tmp_path):
    project = Workspace(tmp_path)
    project.run("none", NONE, methods=[])
    (only,) = project.read("runs/none/run.json")["candidates"]
    tried = [only | {"settings": {"student.dropout": d}} for d in (0.2, 0.5)]
    project.change("runs/none/run.json", candidates=tried, chosen_settings={"student.dropout": 0.5})
    curves = project.root / "runs" / "none" / "curves.csv"
    curves.write_text(curves.read_text().replace(",none,", ',"none, dropout 0.5",'))
    ticks, (line,) = candidates(read_inputs(project.params(), project.project, ()).outcomes[0])
    assert (ticks, line.settings, line.chosen) == (["dropout 0.2", "dropout 0.5"], "", 1)


def test_a_weight_at_the_end_of_the_search_and_a_search_without_zero_are_remarked(tmp_path):
    told = page_of(demo(tmp_path).report()).told
    assert "10 is the largest weight tried for aft; a larger one may do better." in told
    assert "Weight 0 was not tried for aft, so plain training could not be selected." in told
    assert "3 is the largest weight tried for logit_kd" in told
    assert "weight tried for kd" not in told
