"""`aft runs`, `aft compare` and `aft show`: what was trained, in a terminal."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.project import Project
from pipeline.records import EvaluationRecord, RunRecord, SweepRecord, from_json, to_json
from pipeline.reporting.chart import chart

from ..commands import aft
from ..conftest import PARAMS


@pytest.fixture(scope="module")
def trained(made_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project: two runs trained, one of them tested, and a sweep."""
    root = Path(shutil.copytree(made_project, tmp_path_factory.mktemp("listing") / "project"))
    over = {"student": "bag", "train.learning_rate": [0.01, 0.1, 1e30]}
    train = PARAMS["train"] | {"steps": 4, "seeds": [0, 1]}
    values = PARAMS | {"train": train, "sweep": {"rates": {"over": over}}}
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for line in ("train none", "train aft", "evaluate aft", "sweep rates --jobs 1"):
        ended = aft(line, root)
        assert ended.code == 0, ended.errors
    return root


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Path:
    """A copy, for one test to change."""
    return Path(shutil.copytree(trained, tmp_path / "own"))


def rows(line: str, root: Path) -> list[dict[str, Any]]:
    return list(json.loads(aft(f"{line} --json", root).out)["rows"])


def test_runs_points_and_trials_are_listed(trained: Path):
    found = {row["run"]: row for row in rows("runs", trained)}
    assert [found[run]["state"] for run in ("none", "aft", "both")] == ["trained", "evaluated", "not trained"]
    record = RunRecord.read(Project(trained).run("aft") / "run.json")
    tested = EvaluationRecord.read(Project(trained).evaluation("aft"))
    assert (found["aft"]["methods"], found["aft"]["teachers"], found["none"]["teachers"]) == ("aft", "wise", None)
    scores = next(c.val_scores for c in record.candidates if c.weights == record.chosen)
    assert found["aft"]["validation"] == pytest.approx(np.mean(scores))
    assert found["aft"]["test"] == pytest.approx(np.mean([r.scores["accuracy"] for r in tested.results]))
    lines = aft("runs --where methods=aft", trained).out.splitlines()
    assert len(lines) == 2 and lines[1].startswith("aft  bag")
    points = rows("runs --sweep rates --sort -train.learning_rate", trained)
    assert [row["point"] for row in points] == ["rates/2", "rates/1", "rates/0"]
    assert [row["outcome"] for row in points] == ["diverged", "done", "done"]
    trials = rows("runs --trials --where state=done --sort=-seconds", trained)
    assert len(trials) == 6 and {row["methods"] for row in trials} == {"none", "aft"}
    seconds = [row["seconds"] for row in trials]
    assert seconds == sorted(seconds, reverse=True)
    assert len(aft('runs --trials --where "weight>1"', trained).out.splitlines()) == 3
    refused = aft("runs --sort scoer", trained)
    assert refused.code == 2 and "--sort scoer: no `scoer`; there are run, student" in refused.errors


def test_a_sweep_of_other_settings_or_data_is_noted_with_its_points(own: Path):
    def noted(**settings: Any) -> str:
        values = yaml.safe_load((own / "params.yaml").read_text())
        for section, changes in settings.items():
            values[section] |= changes
        (own / "params.yaml").write_text(yaml.safe_dump(values))
        ended = aft("runs --sweep rates", own)
        assert ended.code == 0 and len(ended.out.splitlines()) == 4
        return ended.errors

    bag = PARAMS["students"]["bag"]  # type: ignore[index]
    assert noted() == noted(train={"warmup": 0.05}, students={"bag": bag | {"min_count": 2}}) == ""
    start, end = "note: sweep rates was trained ", "; run `aft sweep rates`\n"
    assert noted(train={"steps": 5}) == f"{start}with other settings (`train.steps` 4, now 5){end}"
    path = Project(own).sweep("rates")
    path.write_text(to_json(from_json(path.read_bytes()) | {"data": "0" * 32}))
    assert noted(train={"steps": 4}) == f"{start}on other data{end}"
    over = {"student": "bag", "train.learning_rate": [0.01, 0.1]}
    assert "(`sweep.rates.over` " in noted(sweep={"rates": {"over": over}})


def test_two_runs_are_compared_on_test_rows_once_both_are_tested(own: Path):
    before = aft("compare aft none", own)
    assert before.code == 0 and before.out.startswith("validation accuracy, %")
    assert "optimistic" in before.out
    assert aft("evaluate none", own).code == 0
    found = json.loads(aft("compare aft none --json", own).out)
    records = [EvaluationRecord.read(Project(own).evaluation(run)) for run in ("aft", "none")]
    scores = [[result.scores["accuracy"] for result in record.results] for record in records]
    assert (found["rows"], found["scores"]) == ("test", scores)
    assert found["difference"]["mean"] == pytest.approx(np.subtract(*scores).mean())
    text = aft("compare aft none", own).out
    assert "aft - none: " in text and f"better on {found['difference']['wins']} of 2" in text


def test_points_are_compared_on_validation_rows(trained: Path):
    record = SweepRecord.read(Project(trained).sweep("rates"))
    found = json.loads(aft("compare rates/1 rates/0 --json", trained).out)
    assert found["scores"] == [list(record.points[1].val_scores), list(record.points[0].val_scores)]
    assert json.loads(aft("compare rates/0 none --json", trained).out)["difference"]["mean"] == 0


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("aft", "both"), "runs/both/run.json: no such file; run `aft train both`"),
        (("rates/9", "none"), "rates/9: no such point; `aft runs --sweep rates` lists 3, from rates/0"),
        (("rates/2", "none"), "rates/2: diverged, so it lacks scores of some seeds"),
        (("/0", "none"), "/0: neither a run nor a point of a sweep, which is written sizes/3"),
        (("sizes/0", "none"), "sweeps/sizes.json: no such file; run `aft sweep sizes`"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(trained: Path, names: tuple[str, str], line: str):
    ended = aft(f"compare {names[0]} {names[1]}", trained)
    assert ended.code == 2 and line in ended.errors


def test_curves_are_drawn(own: Path):
    shown = aft("show aft", own)
    assert shown.code == 0, shown.errors
    assert "validation accuracy" in shown.out and "loss on labels" in shown.out and "*" in shown.out
    assert "run `aft train both`" in aft("show both", own).errors
    assert "rates/0: a point of a sweep, and curves are kept of runs" in aft("show rates/0", own).errors
    path = Project(own).run("aft") / "curves.csv"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    assert aft("show aft", own).code == 2


def test_a_chart_puts_every_point_where_it_belongs():
    lines = chart("score", [(0, 1.0), (50, 3.0), (100, 2.0)], width=11, height=5).splitlines()
    assert lines == [
        "score",
        "3 |     *",
        "  |",
        "  |          *",
        "  |",
        "1 |*",
        "  +-----------",
        "   0       100",
    ]
    assert chart("flat", [(7, 2.5)], width=5, height=3).splitlines()[1:4] == ["    |", "2.5 |*", "    |"]


def test_a_damaged_trial_or_one_that_somebody_has_changed_and_signed_is_listed_as_such(trained: Path, tmp_path: Path):
    project = Path(shutil.copytree(trained, tmp_path / "project"))
    before = rows("runs --trials", project)
    path, other = sorted(project.glob("trials/*/trial.json"))[:2]
    fields = from_json(path.read_bytes())
    path.write_text(to_json(fields | {"inputs": fields["inputs"] | {"student": "bag"}}))
    other.write_bytes(other.read_bytes()[:-40])
    after = rows("runs --trials", project)
    assert after[2:] == before[2:]
    assert [row["state"] for row in after[:2]] == ["damaged"] * 2 and after[0]["validation"] is None
    assert aft("runs --trials --sort=-seconds", project).code == 0


def test_a_damaged_record_is_said_where_scores_are_listed_and_compared(own: Path):
    assert aft("evaluate aft", own).code == aft("evaluate none", own).code == 0
    path = Project(own).evaluation("none")
    path.write_bytes(path.read_bytes()[:-40])
    ended = aft("compare aft none", own)
    assert ended.code == 0 and ended.out.startswith("validation accuracy")
    assert "note: evaluations/none.json: damaged" in ended.errors
    states = {row["run"]: row["state"] for row in rows("runs", own)}
    assert "evaluations/none.json: damaged" in states["none"] and states["aft"] == "evaluated"


@pytest.mark.parametrize(("key", "value"), [("seeds", [0]), ("seeds", []), ("val_scores", []), ("val_scores", [0.5])])
def test_a_point_that_lacks_scores_is_refused_though_its_record_is_signed(own: Path, key: str, value: list[float]):
    path = Project(own).sweep("rates")
    fields = from_json(path.read_bytes())
    (fields["points"][1] if key == "val_scores" else fields)[key] = value
    path.write_text(to_json(fields))
    for line in ("compare rates/1 rates/0", "runs --sweep rates"):
        ended = aft(line, own)
        assert ended.code == 2 and "sweeps/rates.json: damaged" in ended.errors
        assert ended.errors.endswith("; run `aft sweep rates` again\n")


def test_the_chosen_candidate_is_the_one_that_was_trained_on_every_seed(own: Path):
    path = own / "runs" / "aft" / "run.json"
    expected = [row["validation"] for row in rows("runs --sort run", own)]
    (own / "evaluations" / "aft.json").unlink()
    fields = from_json(path.read_bytes())
    chosen = next(c for c in fields["candidates"] if c["weights"] == fields["chosen"])
    fields["candidates"].insert(0, chosen | {"dropped": True, "val_scores": [None]})
    path.write_text(to_json(fields))
    assert [row["validation"] for row in rows("runs --sort run", own)] == expected
    assert json.loads(aft("compare aft none --json", own).out)["rows"] == "validation"
