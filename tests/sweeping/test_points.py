"""What a sweep expands to, and what is refused before anything is trained."""

from typing import Any

import pytest

from pipeline.conditions import conditions, selected
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.runs import every_point, point_label, points, read_run, read_sweep

VALUES = {
    "train": {"steps": 10},
    "students": {"bag": {"family": "bag_of_words"}, "wide": {"family": "bag_of_words", "width": 64}},
    "teachers": {"wise": {}, "loud": {}},
    "runs": {
        "aft": {
            "student": "bag",
            "teachers": ["wise"],
            "methods": [{"name": "aft", "weight": [0.0, 3.0], "form": "dense"}],
            "train": {"steps": 20},
        }
    },
}


def swept(over: Any, **more: Any) -> Params:
    return Params(VALUES | {"sweep": {"mine": {"over": over} | more}})


def sections(over: Any, **more: Any) -> list[dict[str, Any]]:
    return [point.section for point in every_point(swept(over, **more), "mine")]


def test_every_combination_is_a_run():
    over = {"student": ["bag", "wide"], "teachers": [["wise", "loud"], "wise"], "methods": "kd", "weight": [1.0, 10.0]}
    found = list(every_point(swept(over, seeds=[4, 5]), "mine"))
    assert len(found) == 8 and len({point.label for point in found}) == 8
    for point in found:
        run = read_run(point.params, "point")
        assert (run.student, "+".join(run.teachers)) == (point.values["student"], "+".join(run.teachers))
        assert [(term.name, term.weight) for term in run.methods] == [("kd", [point.values["weight"]])]
        assert run.train == {"seeds": [4, 5]}


def test_plain_training_has_no_weights_so_all_of_them_are_one_point():
    over = {"student": "bag", "teachers": "wise", "methods": ["none", "kd", "aft"], "weight": [1.0, 10.0]}
    labels = [point.label for point in every_point(swept(over), "mine")]
    assert labels[0] == "student=bag, teachers=wise, methods=none" and len(labels) == 5


def test_a_point_may_start_from_a_run_and_change_any_setting_of_it():
    over = {"run": "aft", "runs.aft.methods.aft.form": ["fixed"], "train.steps": [5, 7], "students.bag.width": 8}
    (first, second) = sections(over)
    assert first == {
        "student": "bag",
        "teachers": ["wise"],
        "methods": {"aft": {"weight": [0.0, 3.0], "form": "fixed"}},
        "train": {"steps": 5},
        "search": {"student.width": [8]},
    }
    assert second == first | {"train": {"steps": 7}}
    assert VALUES["runs"]["aft"]["train"] == {"steps": 20}, "the run itself is as it was"


def test_settings_of_another_student_or_method_change_nothing():
    over = {"student": ["bag", "wide"], "students.wide.width": [8, 16], "methods": ["none", "kd"]}
    over |= {"weight": 1.0, "methods.kd.form": ["a", "b"], "teachers": "wise"}
    assert len(sections(over)) == (1 + 2) * (1 + 2)


def test_grids_follow_one_another():
    assert len(sections([{"student": ["bag", "wide"]}, {"run": "aft", "weight": [1.0, 2.0]}])) == 4


def test_a_search_stands_for_the_ends_of_its_ranges():
    over = {"student": ["bag", "wide"], "train.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
    rates = [section["train"]["learning_rate"] for section in sections(over, search={"points": 9})]
    assert rates == [0.001, 0.1, 0.001, 0.1]
    assert read_sweep(swept(over, search={"points": 9}), "mine").search is not None


@pytest.mark.parametrize(
    ("over", "line"),
    [
        ({}, "should be a mapping of keys to lists"),
        ([], "should be a mapping of keys to lists"),
        ({"student": []}, "student: no values, so there is nothing to train; list some"),
        ({"student": ["bag", "bag"]}, "student: 'bag' is listed twice; drop one"),
        ({"student": "bag", "train.steps": [1, 1.0]}, "train.steps: 1.0 is listed twice"),
        ({"studnet": ["bag"]}, r"unknown key `studnet` \(did you mean `student`\?\); allowed are run, student,"),
        ({"student": "bag", "train.a.b": [1]}, "unknown key `train.a.b`"),
        ({"student": "bag", "methods.aft": [1]}, "unknown key `methods.aft`"),
        ({"train.steps": [1, 2]}, r"no student; add `student: \[\.\.\.\]`"),
        ({"run": "atf"}, r"no section `runs.atf` \(did you mean `aft`\?\)"),
        ({"student": "bag", "dataset.limit": [10, 20]}, "dvc exp run --queue -S dataset.limit=VALUE"),
        (
            {"student": "bag", "dataset.labelled": [10, 0]},
            "dataset.labelled: 0; write numbers of rows from 1",
        ),
        ({"student": "bag", "teachers.wise.pooling": ["cls"]}, "dvc exp run --queue -S teachers.wise.pooling=VALUE"),
        ({"student": "bag", "machine.workers": [1, 2]}, "it changes no result; set it in `machine`"),
        ({"student": "bag", "train.seeds": [[0], [1]]}, r"write `seeds: \[\.\.\.\]` next to `over`"),
        ({"student": "bag", "train.steps": {"low": 1, "high": 9}}, "a range needs `search"),
        ({"student": "bag", "methods.kd.form": ["a"]}, "methods.kd.form: changes no point"),
        ({"student": "bag", "methods": [3]}, "methods: 3; write a method's name"),
        ({"student": "bag", "train.steps": [*range(1, 20_002)]}, "20,001 points, more than 10,000"),
    ],
)
def test_what_cannot_be_tried_is_refused_in_a_line(over: Any, line: str):
    with pytest.raises(UserError, match=line) as refused:
        points(swept(over), "mine")
    assert "\n" not in str(refused.value) and "params.yaml" in str(refused.value)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({"low": 2.0, "high": 1.0}, "with low < high"),
        ({"low": 0, "high": 9, "log": True}, "low > 0 with log"),
        ([{"low": 1, "high": 9}, {"low": 20, "high": 30}], "one range for a key"),
    ],
)
def test_a_range_that_is_none_is_refused(found: Any, line: str):
    with pytest.raises(UserError, match=line):
        points(swept({"student": "bag", "train.steps": found}, search={"points": 3}), "mine")


@pytest.mark.parametrize(
    ("value", "label"),
    (
        ([], "none"),
        (None, "none"),
        ({}, "none"),
        ("none", "none"),
        (True, "true"),
        (0, "0"),
        (0.0, "0"),
        (False, "false"),
        (["a", ["b", 1.5]], "a+b+1.5"),
        ({"aft": {"weight": 1.0}}, '{"aft": {"weight": 1.0}}'),
    ),
)
def test_values_have_names(value: Any, label: str):
    assert point_label({"methods": value}) == f"methods={label}"


def test_a_search_goes_over_one_mapping():
    with pytest.raises(UserError, match="a search has one mapping `over`, and there are 2"):
        points(swept([{"student": "bag"}, {"student": "wide"}], search={"points": 3}), "mine")


KEYS = ["student", "weight", "teachers", "train.steps"]
POINT = {"student": "small", "weight": 3.0, "teachers": ["a", "b"]}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("student=small,weight>0", True),
        ("student=small, weight > 3", False),
        ("weight>=3,weight<=3.0,weight!=4", True),
        ("weight=3", True),
        ("teachers=a+b", True),
        ("train.steps>0", False),
        ("train.steps!=3", True),
        ("student>3", False),
    ],
)
def test_conditions_select(text: str, holds: bool):
    assert selected(POINT, conditions(text, KEYS)) == holds


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("student", "write KEY=VALUE"),
        ("student=", "write KEY=VALUE"),
        ("a<b<c", "write KEY=VALUE"),
        ("wieght>0", r"no `wieght` \(did you mean `weight`\?\); there are student, weight"),
        ("weight>[1", "the value: "),
    ],
)
def test_a_condition_that_is_none_is_refused(text: str, line: str):
    with pytest.raises(UserError, match=line):
        conditions(text, KEYS)
