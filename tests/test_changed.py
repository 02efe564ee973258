"""A stage that is called by itself says which earlier results are of other settings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.changed import changed, changed_run, defaults_of_run, settings_of
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import LogRecord
from pipeline.training import TrainSettings


def edit(project: Path, section: str, **settings: Any) -> Params:
    """Change settings of a section of params.yaml."""
    path = project / "params.yaml"
    values = yaml.safe_load(path.read_text())
    *sections, last = section.split(".")
    here = values
    for name in sections:
        here = here[name]
    here[last] = here.get(last, {}) | settings
    path.write_text(yaml.safe_dump(values))
    return Params.load(path)


def lines(params: Params, project: Path, before: str = "") -> list[str]:
    return list(changed(params, Project(project), ["wise"], before))


@pytest.fixture
def logged(project: Path, params: Params) -> Path:
    """The small project, with the logs that the stages `extract` and `probe` write."""
    for stage in ("extract", "probe"):
        record = LogRecord(seconds=1.0, settings=settings_of(stage, "wise", params))
        path = Project(project).log(stage, "wise")
        path.parent.mkdir(parents=True, exist_ok=True)
        record.write(path)
    return project


def test_without_changes_nothing_is_said(logged: Path, params: Params):
    assert lines(params, logged) == []


def test_settings_that_change_no_result_are_not_said(logged: Path):
    params = edit(logged, "extract", batch_size=7, shard_rows=9)
    assert lines(params, logged) == []


@pytest.mark.parametrize(
    ("section", "settings", "line"),
    [
        (
            "dataset", {"labelled": 20},
            "data/ was prepared with other settings (`labelled` 30, now 20); run `aft prepare`",
        ),
        (
            "dataset.source", {"path": "raw/others.csv"},
            "data/ was prepared with other settings (`source.path` raw/reviews.csv, now raw/others.csv); "
            "run `aft prepare`",
        ),
        (
            "teachers.wise", {"pooling": "cls"},
            "features of wise were extracted with other settings (`pooling` not set, now cls); run `aft extract wise`",
        ),
        (
            "extract", {"precision": "bfloat16"},
            "features of wise were extracted with other settings (`precision` float32, now bfloat16); "
            "run `aft extract wise`",
        ),
        (
            "probe", {"strengths": [1.0]},
            "probes of wise were fitted with other settings (`strengths` [0.01, 1.0], now [1.0]); run `aft probe wise`",
        ),
    ],
)  # fmt: skip
def test_what_changed_is_said_with_both_values(logged: Path, section: str, settings: dict[str, Any], line: str):
    assert lines(edit(logged, section, **settings), logged) == [line]


def test_a_stage_is_not_told_about_what_it_makes_itself(logged: Path):
    edit(logged, "probe", strengths=[1.0])
    params = edit(logged, "teachers.wise", pooling="cls")
    assert len(lines(params, logged)) == 2
    assert len(lines(params, logged, "probe")) == 1 and lines(params, logged, "extract") == []


def test_many_changes_are_counted(logged: Path):
    params = edit(logged, "dataset", labelled=20, val=20, test=50, seed=1, splits=3)
    (line,) = lines(params, logged)
    assert line.count("now") == 3 and "and 2 more)" in line


def test_a_section_that_was_empty_is_known_too(logged: Path):
    LogRecord(seconds=1.0, settings={}).write(Project(logged).log("probe", "wise"))
    (line,) = lines(Params.load(logged / "params.yaml"), logged)
    assert "`strengths` not set, now [0.01, 1.0]" in line


def test_results_that_do_not_say_their_settings_are_taken_as_they_are(project: Path):
    assert lines(edit(project, "teachers.wise", pooling="cls"), project) == []


def test_every_later_stage_says_it_once_and_goes_on(aft: Callable[..., Any], project: Path):
    edit(project, "train", steps=2, seeds=[0])
    assert aft("join").stderr == ""
    edit(project, "dataset", labelled=20)
    note = "note: data/ was prepared with other settings (`labelled` 30, now 20); run `aft prepare`\n"
    for typed in (["probe", "wise"], ["join"], ["train", "none"], ["evaluate", "none"], ["report"]):
        done = aft(*typed)
        assert done.returncode == 0 and done.stderr.count(note) == 1, (typed, done.stderr)
    assert note.removeprefix("note: ") in aft("check").stdout


@pytest.mark.parametrize("typed", [["sweep", "mine"], ["assess"]])
def test_it_is_said_of_teachers_that_no_run_reads(aft: Callable[..., Any], logged: Path, typed: list[str]):
    edit(logged, "teachers.wise", pooling="cls")
    values = yaml.safe_load((logged / "params.yaml").read_text())
    values["runs"] = {"none": values["runs"]["none"]}
    values["sweep"] = {"mine": {"over": {"student": "bag", "teachers": ["wise"], "methods": ["aft"], "weight": [1.0]}}}
    (logged / "params.yaml").write_text(yaml.safe_dump(values))
    assert "note: features of wise were extracted with other settings (`pooling` not set" in aft(*typed).stderr


@pytest.mark.usefixtures("third")
def test_the_stages_keep_what_they_were_called_with(aft: Callable[..., Any], project: Path):
    edit(project, "teachers.third", pooling="mean")
    for stage in ("extract", "probe"):
        assert aft(stage, "third").returncode == 0
    edit(project, "teachers.third", pooling="cls")
    edit(project, "probe", strengths=[1.0])
    said = aft("join").stderr
    assert "features of third were extracted with other settings (`pooling` mean, now cls)" in said
    assert "probes of third were fitted with other settings (`strengths` [0.01, 1.0], now [1.0])" in said
    edit(project, "teachers.third", pooling="mean")
    assert aft("extract", "third").returncode == 0  # complete: nothing is extracted, and the settings are those again
    assert "features" not in aft("join").stderr
    # Defaults that are written are no other settings.
    edit(project, "probe", strengths=[0.01, 1.0], landmarks=1024)
    edit(project, "dataset.source", template=None)
    edit(project, "extract", dtype="float16")
    edit(project, "teachers.third", max_length=None)
    assert aft("join").stderr == ""


@pytest.mark.parametrize(
    ("section", "settings", "found"),
    [
        ("train", {"steps": 7}, "`train.steps` 30, now 7"),
        ("students.bag", {"width": 8}, "`students.bag.width` 16, now 8"),
        ("runs.aft", {"methods": {"aft": {"weight": 4.0}}}, "`runs.aft.methods.aft.weight` [0.0, 3.0], now [4.0]"),
        ("students.bag", {"min_count": 3}, "`students.bag.min_count` 2, now 3"),  # another one than the default
        ("students.bag", {"min_count": 2}, ""),  # the default, written
        ("train", {"warmup": 0.05}, ""),
        ("runs.aft", {"methods": {"aft": {"weight": [0.0, 3.0], "task_directions": False}}}, ""),
        ("runs.aft", {"methods": {"aft": {"weight": [0.0, 3.0]}}}, ""),  # the same, written in another way
        ("runs.none", {"train": {"steps": 7}}, ""),
        ("machine", {"workers": 2}, ""),
        ("probe", {"strengths": [1.0]}, ""),
    ],
)
def test_a_run_is_of_the_settings_that_it_was_trained_with(
    project: Path, params: Params, section: str, settings: dict[str, Any], found: str
):
    path = Project(project).log("train", "aft")
    path.parent.mkdir(parents=True, exist_ok=True)
    made, unwritten = settings_of("train", "aft", params), defaults_of_run(params, "aft", TrainSettings)
    LogRecord(seconds=1.0, settings=made, defaults=unwritten).write(path)
    line = changed_run(edit(project, section, **settings), Project(project), "aft")
    if not found:
        assert line == ""
        return
    assert line.startswith(f"run aft was trained with other settings ({found}")
    assert line.endswith("; run `aft train aft`")


def test_a_run_says_what_it_is_of_wherever_it_is_used(aft: Callable[..., Any], project: Path):
    edit(project, "train", steps=2, seeds=[0])
    for typed in (["train", "none"], ["evaluate", "none"]):
        assert aft(*typed).returncode == 0

    def states() -> dict[str, str]:
        return {row["run"]: row["state"] for row in json.loads(aft("runs", "--json").stdout)["rows"]}

    assert (states()["none"], states()["aft"]) == ("evaluated", "not trained")
    edit(project, "train", steps=3)
    assert states()["none"] == "evaluated, other settings"
    line = "run none was trained with other settings (`train.steps` 2, now 3); run `aft train none`\n"
    for typed in (["evaluate", "none"], ["report"]):
        done = aft(*typed)
        assert done.returncode == 0 and done.stderr.count(f"note: {line}") == 1, (typed, done.stderr)
    assert line in aft("check").stdout
    assert aft("train", "none").returncode == 0 and states()["none"] == "trained"
    edit(project, "dataset", seed=5)
    assert aft("prepare").returncode == 0 and states()["none"] == "trained, other data"
