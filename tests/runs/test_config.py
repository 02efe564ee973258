"""What a run may say, and what it is told when it says something else."""

import copy
import math
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.runs import Candidate, read_run

VALUES: dict[str, Any] = {
    "teachers": {"minilm": {"family": "transformers"}},
    "students": {"bag": {"family": "bag_of_words"}},
    "runs": {
        "aft": {
            "student": "bag",
            "teachers": ["minilm"],
            "methods": [
                {"name": "aft", "weight": [3.0, 0.0, 10], "task_directions": True},
                {"name": "kd", "weight": 1},
            ],
        }
    },
}


def changed(**changes: Any) -> Params:
    values = copy.deepcopy(VALUES)
    values["runs"]["aft"] |= changes
    return Params(values)


def test_a_method_keeps_its_own_settings_apart_from_its_weight():
    run = read_run(Params(VALUES), "aft")
    assert run.methods[0].options == {"task_directions": True}
    assert run.methods[0].weight == [3.0, 0.0, 10.0]
    assert run.methods[1].options == {}


def test_methods_may_be_a_mapping_in_its_order():
    as_list = [{"name": "kd", "weight": 1}, {"name": "aft", "weight": "auto", "task_directions": True}]
    as_mapping = {"kd": {"weight": 1}, "aft": {"weight": "auto", "task_directions": True}}
    assert read_run(changed(methods=as_mapping), "aft") == read_run(changed(methods=as_list), "aft")
    assert read_run(changed(methods={}, teachers=[]), "aft").methods == []


def test_a_teacher_may_be_one_of_its_heads():
    run = read_run(changed(teachers=["minilm", "minilm/layer:4"]), "aft")
    assert [(source.teacher, source.head) for source in run.sources] == [("minilm", "pooled"), ("minilm", "layer:4")]


def test_a_weight_may_have_a_schedule():
    changed_run = read_run(changed(methods=[{"name": "aft", "weight": 1.0, "schedule": "linear_decay"}]), "aft")
    assert changed_run.methods[0].schedule == "linear_decay"
    assert changed_run.methods[0].options == {}
    with pytest.raises(UserError, match=r"schedule"):
        read_run(changed(methods=[{"name": "aft", "weight": 1.0, "schedule": "sometimes"}]), "aft")


def test_candidates_are_all_combinations_smallest_first():
    candidates = read_run(Params(VALUES), "aft").candidates()
    assert [candidate.weights for candidate in candidates] == [(0.0, 1.0), (3.0, 1.0), (10.0, 1.0)]
    assert [candidate.label for candidate in candidates] == ["0+1", "3+1", "10+1"]


def test_plain_training_has_one_candidate():
    assert read_run(changed(methods=[], teachers=[]), "aft").candidates() == [Candidate(())]
    assert Candidate(()).label == "none"


def test_settings_are_searched_together_with_weights():
    search = {"student.dropout": [0.2, 0.5], "train.learning_rate": [0.01]}
    methods = [{"name": "aft", "weight": [3.0, 0.0]}]
    candidates = read_run(changed(methods=methods, search=search), "aft").candidates()
    assert [c.label for c in candidates] == [
        f"{weight}, dropout {dropout}, learning_rate 0.01" for weight in (0, 3) for dropout in (0.2, 0.5)
    ]
    assert candidates[1].of("student") == {"dropout": 0.5}
    assert candidates[1].of("train") == {"learning_rate": 0.01}


def test_settings_of_a_method_are_searched_where_the_method_is_at_work():
    """At weight 0 it has no settings: two candidates that differ in those alone would be the same training."""
    search = {"student.dropout": [0.2, 0.5], "methods.aft.kernel": ["linear", "rbf"]}
    methods = [{"name": "aft", "weight": [3.0, 0.0]}, {"name": "kd", "weight": 1.0}]
    candidates = read_run(changed(methods=methods, search=search), "aft").candidates()
    assert [c.label for c in candidates] == [
        "0+1, dropout 0.2",
        "0+1, dropout 0.5",
        *(f"3+1, dropout {dropout}, aft.kernel {kernel}" for dropout in (0.2, 0.5) for kernel in ("linear", "rbf")),
    ]
    assert candidates[-1].of("methods.aft") == {"kernel": "rbf"}
    assert candidates[-1].of("methods.kd") == candidates[0].of("methods.aft") == {}


def test_each_combination_of_settings_may_have_weights_of_its_own():
    methods = [{"name": "aft", "weight": "auto"}]
    run = read_run(changed(methods=methods, search={"methods.aft.queue": [0, 64]}), "aft")
    candidates = run.candidates(lambda combination: [[0.0, 1.0 + combination.of("methods.aft")["queue"]]])
    assert [c.label for c in candidates] == ["0", "1, aft.queue 0", "65, aft.queue 64"]


def test_a_head_that_is_only_searched_is_read():
    methods = [{"name": "logit_kd", "weight": 1.0}]
    followed = read_run(changed(methods=methods, search={"methods.logit_kd.logits": ["probe", "head"]}), "aft")
    own = followed.own_outputs
    assert list(own) == ["head"] and followed.reads == (*followed.sources, *own["head"])
    assert [source.head for source in own["head"]] == ["logits"] * len(followed.sources)
    assert read_run(changed(methods=methods), "aft").own_outputs == {}


def test_zero_shot_alone_and_with_the_probe_are_one_head():
    methods = [{"name": "logit_kd", "weight": 1.0, "logits": "probe_and_zero_shot"}]
    alone = read_run(changed(methods=methods), "aft").own_outputs
    searched = {"methods.logit_kd.logits": ["probe_and_zero_shot", "zero_shot", "probe"]}
    assert alone == read_run(changed(methods=methods[:1], search=searched), "aft").own_outputs
    assert list(alone) == ["zero_shot"] and {source.head for source in alone["zero_shot"]} == {"zero_shot"}


def test_a_weight_may_be_left_to_be_found():
    assert read_run(changed(methods=[{"name": "aft", "weight": "auto"}]), "aft").methods[0].weight == "auto"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": ["minlm"]}, r"no section `teachers.minlm` \(did you mean `minilm`"),
        ({"student": "bog"}, r"no section `students.bog`"),
        ({"methods": [{"name": "atf", "weight": 1.0}]}, r"no 'atf' in pipeline/methods/"),
        ({"methods": [{"name": "aft"}]}, r"needs a weight"),
        ({"methods": [{"name": "aft", "weight": -1.0}]}, r"numbers >= 0"),
        ({"methods": [{"name": "aft", "weight": []}]}, r"numbers >= 0"),
        ({"methods": [{"name": "aft", "weight": math.nan}]}, r"weight\[0\]: should be a finite number, found nan"),
        (
            {"methods": [{"name": "aft", "weight": [0.0, math.inf]}]},
            r"weight\[1\]: should be a finite number, found inf",
        ),
        ({"methods": [{"name": "aft", "weight": "1e-4"}]}, r"write 1.0e-4"),
        ({"methods": {"name": "aft"}}, r"should be a mapping such as {aft: {weight: 10.0}}"),
        ({"methods": {"aft": {"name": "aft", "weight": 1.0}}}, r"the key `aft` is the method's name; drop `name`"),
        ({"methods": {"aft": {}}}, r"needs a weight"),
        ({"methods": [{"weight": 1.0}]}, r"needs its name"),
        ({"teachers": ["minilm", "minilm/pooled"]}, r"listed twice"),
        ({"teachers": ["minilm/4"]}, r"runs.aft.teachers: 'minilm/4' is not a source of features"),
        ({"methods": [{"name": "kd", "weight": 1.0}] * 2}, r"listed twice"),
        ({"teachers": []}, r"methods without teachers"),
        ({"weight": 3.0}, r"unknown key `weight`"),
        ({"search": {"dropout": [0.5]}}, r"search: dropout: \[0.5\]; write student.<key>, train.<key>"),
        ({"search": {"methods.rkd.distance": [0.5]}}, r"methods.<name of one of the run's methods>.<key>"),
        ({"search": {"methods.aft": [0.5]}}, r"methods.<name of one of the run's methods>.<key>"),
        ({"search": {"student.width": [[4], [8]]}}, r"student.width: \[\[4\], \[8\]\]; .* a list of numbers or words"),
        ({"search": {"train.seeds": [[0], [1]]}}, r"not seeds, race or val"),
        ({"search": {"student.dropout": []}}, r"and a list of numbers or words"),
        ({"search": {"student.dropout": 0.5}}, r"search.student.dropout: should be a valid list"),
        ({"methods": [{"name": "aft", "weight": "much"}]}, r"methods\[0\]\.weight\[0\]: should be a valid number"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes: dict, message: str):
    with pytest.raises(UserError, match=message) as caught:
        read_run(changed(**changes), "aft")
    assert "\n" not in str(caught.value)
