"""Sentences about runs: they follow the numbers, and say no more than the seeds carry."""

import pytest

from pipeline.functional.statistics import paired

from .html import page_of
from .records import AFT, KD, NONE, REGRESSION, Workspace, demo


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("project")).report()


@pytest.fixture
def small(tmp_path):
    return Workspace(tmp_path)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("kd", "kd: within the noise: +0.24 points against plain training (95% interval"),
        ("aft", "aft: weight 0 selected (same as plain training)."),
        (
            "aft_task",
            "aft_task: +2.48 points against plain training (95% interval 2.07 to 2.89; better on 5 of 5 seeds); closes",
        ),
        ("aft_task", "% of the gap to the linear probe of minilm (95% interval"),
        ("aft_shuffled", "aft_shuffled: a control"),
        ("aft_shuffled", "As expected, it does not gain."),
    ],
)
def test_the_words_follow_the_numbers(made, run, words):
    line = next(line for line in made.summary if line.startswith(f"{run}:"))
    assert words in line.replace("\N{MINUS SIGN}", "-")


def test_the_first_paragraph_counts_the_runs_by_their_verdicts(made):
    told = page_of(made).told
    assert "Plain training of bag has a test accuracy of 65.38% on 3,000 rows (standard error 0.24, 5 seeds)" in told
    assert "the linear probe of minilm 69.7" in told
    assert (
        "Of 4 runs with a method, 2 are better by more than the noise, 1 is within the noise and 1 has weight 0 "
        "selected (same as plain training)." in told
    )


def test_where_lower_is_better_a_fall_is_a_gain(tmp_path):
    small = Workspace(tmp_path, REGRESSION)
    small.run("none", [2.0, 2.1, 1.9, 2.05, 2.0], methods=[])
    small.run("aft", [1.5, 1.7, 1.4, 1.6, 1.5], probe=1.2)
    small.run("kd", [2.5, 2.7, 2.4, 2.6, 2.5], probe=1.2)
    made = small.report()
    gain, loss = (line.replace("\N{MINUS SIGN}", "-") for line in made.summary[1:])
    assert gain.startswith("aft: -0.47 kWh against plain training (95% interval -0.526 to -0.414; better on 5 of 5")
    assert "; closes 58% of the gap to the linear probe of minilm" in gain
    assert loss.startswith("kd: +0.53 kWh against plain training") and "better on 0 of 5 seeds" in loss
    assert "1 is better by more than the noise and 1 is worse by more than the noise" in page_of(made).told


def test_a_gain_that_the_number_of_comparisons_explains_says_so(small):
    small.run("none", NONE, methods=[])
    for k in range(5):
        small.run(f"try{k}", [x + d for x, d in zip(NONE, (0.002, 0.010, 0.004, 0.008, 0.001), strict=True)])
    made = small.report()
    assert made.metrics["try0"]["low"] > 0
    alone = paired([0.002, 0.010, 0.004, 0.008, 0.001]).p
    assert f"Weak evidence: p = {5 * alone:.2f} after correction" in made.summary[1]


def test_a_control_that_gains_is_an_alarm_about_the_methods(small):
    small.run("none", NONE, methods=[])
    small.run("shuffled", AFT, shuffled=True)
    assert "It should not gain" in small.report().summary[1]


def test_a_student_of_weight_0_that_is_not_plain_training_says_so(small):
    small.run("none", NONE, methods=[])
    small.run("aft", AFT, chosen=0.0)
    assert (
        "weight 0 selected, which should be the same as plain training, but +2.48 points" in small.report().summary[1]
    )


def test_one_seed_gives_no_interval_and_says_so(small):
    small.run("none", NONE[:1], methods=[])
    small.run("aft", AFT[:1], gates={"minilm": 8})
    made = small.report()
    page = page_of(made)
    assert made.summary[1] == (
        "aft: +2.50 points against plain training on the only seed, which shows nothing: run more seeds."
    )
    assert (made.metrics["aft"]["low"], made.metrics["aft"]["standard_error"]) == (None, None)
    assert "on 3,000 rows (1 seed)" in page.told
    assert "The one run with a method has one seed only, which shows nothing." in page.told
    assert "±" not in page.rows["aft"][2]


def test_a_student_of_features_is_never_called_plain_training(small):
    small.run("none", [x - 0.3 for x in NONE], methods=[])
    small.run("probe", AFT, methods=[], student="head", reads="features")
    made = small.report()
    page = page_of(made)
    assert any(line.startswith("probe: +32.48 points against plain training") for line in made.summary)
    assert "Plain training of bag has a test accuracy of 35.38% on 3,000 rows" in page.told
    assert "The one run of head is better by more than the noise." in page.told
    assert "plain training of head" not in page.told.lower()
    assert page.rows["probe"][3] == "+32.48"


def test_a_student_of_features_alone_says_what_to_add(small):
    small.run("probe", AFT, methods=[], student="head", reads="features")
    made = small.report()
    assert made.summary == ["probe: accuracy 67.86%, with nothing to compare it with."]
    assert "Add a run of another student, on the same seeds, with `methods: []`" in page_of(made).told


def test_without_plain_training_the_page_says_what_is_missing(small):
    small.run("aft", AFT)
    made = small.report()
    assert "Add a run with `methods: []`" in page_of(made).told
    assert "nothing to compare it with" in made.summary[0]
    assert made.metrics["aft"]["difference"] is None


def test_the_probes_of_several_teachers_are_plural(small):
    small.run("none", NONE, methods=[])
    small.run("aft", AFT, teachers=("minilm", "bge"))
    assert "of the gap to the linear probes of minilm + bge" in small.report().summary[1]


def test_a_gap_within_the_noise_has_no_interval(small):
    small.run("none", NONE, methods=[])
    small.run("aft", AFT, probe=0.655)
    assert "the interval is unbounded" in small.report().summary[1]


def test_a_probe_below_plain_training_leaves_no_gap(small):
    small.run("none", NONE, methods=[])
    small.run("aft", AFT, probe=0.5)
    made = small.report()
    assert "there is no gap" in made.summary[1]
    assert made.metrics["aft"]["gap_closed"] is None
    assert page_of(made).rows["aft"][7] == "—"


def test_two_plain_runs_that_cannot_be_paired_are_no_run_with_a_method(small):
    small.run("none", NONE, methods=[])
    small.run("early", KD[:3], methods=[])
    told = page_of(small.report()).told
    assert "runs with a method" not in told and "early: plain training, accuracy" in told
