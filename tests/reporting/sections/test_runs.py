"""What a run is and what it tried, as text."""

import re

from pipeline.reporting.sections import results, runs, search

from ..records import AFT, Workspace


def test_methods_teachers_and_candidates_are_shown(tmp_path):
    project = Workspace(tmp_path)
    project.run("both", AFT, weights=(0.0, 3.0), methods=["aft", "kd"], shuffled=True)
    settings = [{"name": "aft", "settings": {"task_directions": True, "scaling": "whitened"}}]
    settings.append({"name": "kd", "settings": {"mix": True, "cross_fit": False}})
    project.change("runs/both/run.json", methods=settings)
    told = project.section(runs).told
    methods = "aft (task directions, scaling whitened); kd (mixed last layer, no cross fit)"
    for words in (methods, "minilm, rows shuffled", "0+0, 3+3"):
        assert words in told
    assert "bag, of the family bag_of_words, has 612,345 parameters and features of width 64" in told


def test_settings_that_were_searched_are_shown(tmp_path):
    project = Workspace(tmp_path)
    project.run("tuned", AFT, weights=(0.0, 3.0), methods=["aft"])
    record = project.read("runs/tuned/run.json")
    tried = [c | {"settings": {"student.dropout": d}} for c in record["candidates"] for d in (0.2, 0.5)]
    project.change("runs/tuned/run.json", candidates=tried, chosen_settings={"student.dropout": 0.5})
    curves = project.root / "runs" / "tuned" / "curves.csv"
    curves.write_text(re.sub(r"^(\d+),3,", r'\1,"3, dropout 0.5",', curves.read_text(), flags=re.M))
    assert "0, 3; dropout 0.2, 0.5" in project.section(runs).told
    assert "3, dropout 0.5" in project.section(results).told
    figures = project.section(search).told
    assert figures.count("dropout 0.2") == figures.count("dropout 0.5") == 1


def test_candidates_that_diverged_are_named(tmp_path):
    project = Workspace(tmp_path)
    project.run("wild", AFT, weights=(0.0, 3.0, 1e9), chosen=3.0, methods=["aft"])
    assert "diverged" not in project.section(runs).told
    assert "Diverged" not in project.section(search).told
    candidates = project.read("runs/wild/run.json")["candidates"]
    candidates[2]["val_scores"] = [None] * len(AFT)
    project.change("runs/wild/run.json", candidates=candidates)
    told = project.section(runs).told
    assert "0, 3, 1e+09; diverged: 1e+09" in told
    assert "Diverged (NaN or inf) on one seed or more, and could not be chosen: 1e+09." in project.section(search).told


def test_candidates_that_were_dropped_are_named_with_their_seeds(tmp_path):
    project = Workspace(tmp_path)
    project.run("raced", AFT, weights=(0.0, 3.0, 100.0), chosen=3.0, methods=["aft"])
    assert "clearly worse" not in project.section(search).told
    candidates = project.read("runs/raced/run.json")["candidates"]
    candidates[2] |= {"val_scores": candidates[2]["val_scores"][:2], "dropped": True}
    project.change("runs/raced/run.json", candidates=candidates)
    assert (
        f"clearly worse on the first of {len(AFT)} seeds and not trained on the others; "
        "they are means of those seeds alone, and not compared: 100 (2 seeds)."
    ) in project.section(search).told
