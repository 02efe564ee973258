"""The loop: paired where it says so, exact at weight 0, and honest about what it saw."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline import training
from pipeline.data import Dataset, Split
from pipeline.errors import UserError
from pipeline.locks import Lock
from pipeline.machine import Machine
from pipeline.methods import Signals, kd, logit_kd
from pipeline.params import Params
from pipeline.probing import ProbeSettings, probe
from pipeline.project import Project
from pipeline.records import Metric, RunRecord, TrialRecord
from pipeline.runs import Candidate, Run
from pipeline.store import FeatureStore
from pipeline.students import Blueprint, load_student
from pipeline.students.bag_of_words import BagOfWords
from pipeline.training import Training, auto_weight, candidates, trial, worker
from pipeline.training.batches import batches, shuffled
from pipeline.training.choice import choose
from pipeline.training.config import Plan, TrialSettings
from pipeline.training.ledger import Trial
from pipeline.training.optimisation import rate
from pipeline.training.prefetch import Ready
from pipeline.training.session import Session, TrialData

from ..conftest import class_logits, flip_a_bit, write_store

ACCURACY = Metric(name="accuracy", label="accuracy", unit="%")
RMSE = Metric(name="rmse", label="RMSE", higher_is_better=False)


def train(name: str, params: Params, root: Path, **options: Any) -> Training:
    """Train a run from nothing: what the ledger has would otherwise be found, and nothing trained."""
    shutil.rmtree(Project(root).trials, ignore_errors=True)
    return training.train(name, params, Project(root), **options)


def scored(scores: dict[float, tuple[float | None, ...]]) -> dict[Trial, TrialRecord]:
    """Trials by weight and seed; None is a training that diverged."""
    return {
        Trial(seed, Candidate((weight,)), f"{weight}-{seed}"): TrialRecord(
            inputs={},
            seconds=1.0,
            scores={} if score is None else {ACCURACY.name: score, RMSE.name: score},
            diverged="" if score is not None else f"seed {seed}, step 4: the loss is not finite",
        )
        for weight, each in scores.items()
        for seed, score in enumerate(each)
    }


def record_of(root: Path, run: str) -> RunRecord:
    return RunRecord.read(Project(root).run(run) / "run.json")


def weights(root: Path, run: str, seed: int) -> dict[str, np.ndarray]:
    return load_file(root / "runs" / run / "students" / str(seed) / "weights.safetensors")


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def with_run(params: Params, **run: Any) -> Params:
    params.values["runs"]["trial"] = {"student": "bag"} | run
    return params


def test_a_run_leaves_its_students_its_record_and_its_curves(project: Path, params: Params):
    params.values["runs"]["aft"]["methods"][0]["weight"] = [1.0, 3.0]
    result = train("aft", params, project)
    record = record_of(project, "aft")
    assert sorted(path.name for path in (project / "runs" / "aft").iterdir()) == [
        "curves.csv",
        "gates.json",
        "run.json",
        "students",
    ]
    assert result.trained == record.trainings == 6
    assert record.seeds == (0, 1, 2)
    assert record.chosen == result.chosen.weights
    chosen = next(c for c in record.candidates if c.weights == record.chosen)
    assert list(chosen.val_scores) == result.val_scores
    assert f" with weight {result.chosen.weights[0]:g}; 6 of 6 trials trained" in str(result)
    plain = replace(result, chosen=Candidate((), (("student.dropout", 0.5),)))
    assert " with dropout 0.5; 6 of 6" in str(plain) and "weight" not in str(plain)
    best = max(np.mean(c.val_scores) for c in record.candidates)
    assert np.mean(list(chosen.val_scores)) == pytest.approx(best)
    with (project / "runs" / "aft" / "curves.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {(line["seed"], line["weight"]) for line in lines} == {(s, w) for s in "012" for w in ("1", "3")}
    assert {line["step"] for line in lines} >= {"0", "29", "30"}


def test_it_learns(project: Path, params: Params):
    params.values["train"]["steps"] = 150
    result = train("both", params, project)
    assert np.mean(result.val_scores) > 0.6


def test_weight_zero_is_plain_training_bit_for_bit(project: Path, params: Params):
    train("none", params, project)
    with_run(params, teachers=["wise"], methods=[{"name": "aft", "weight": 0.0}])
    train("trial", params, project)
    assert all(same(weights(project, "none", seed), weights(project, "trial", seed)) for seed in range(3))


def test_training_again_gives_the_same_bits(project: Path, params: Params):
    with_run(params, teachers=["wise"], methods=[{"name": "aft", "weight": 3.0}])
    train("trial", params, project)
    first = weights(project, "trial", 1)
    train("trial", params, project)
    assert same(first, weights(project, "trial", 1))


def test_worker_processes_change_nothing(project: Path, params: Params):
    params.values["train"]["steps"] = 5
    train("aft", params, project)
    first = {seed: weights(project, "aft", seed) for seed in range(3)}
    params.values["machine"]["workers"] = 2
    torch.set_num_threads(1)
    train("aft", params, project)
    for seed in range(3):
        for name, values in weights(project, "aft", seed).items():
            # The number of threads may change the order of a sum, never more.
            assert np.allclose(values, first[seed][name], atol=1e-5)


def test_worker_processes_see_what_changed_since_the_last_call(project: Path, params: Params):
    params.values["train"]["steps"] = 3
    params.values["machine"]["workers"] = 2
    with_run(params, teachers=["wise"], methods=[{"name": "kd", "weight": 1.0}])
    train("trial", params, project)
    first = weights(project, "trial", 0)
    data = Dataset.open(project / "data")
    write_store(data, project / "features" / "wise.zarr", 24, seed=77)
    probe("wise", params.read(ProbeSettings, "probe"), Project(project))
    train("trial", params, project)
    assert not same(first, weights(project, "trial", 0))


def test_a_training_that_fails_leaves_the_last_one(project: Path, params: Params):
    params.values["train"]["steps"] = 3
    train("aft", params, project)
    first = weights(project, "aft", 0)
    params.values["runs"]["aft"]["methods"][0]["gats"] = "x"
    with pytest.raises(UserError):
        train("aft", params, project)
    assert same(first, weights(project, "aft", 0))


def test_a_seed_does_the_same_whatever_other_seeds_there_are(project: Path, params: Params):
    train("none", params, project)
    first = weights(project, "none", 2)
    params.values["train"]["seeds"] = [2]
    train("none", params, project)
    assert same(first, weights(project, "none", 2))


def test_hidden_labels_change_nothing(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch):
    params.values["train"]["seeds"] = [0]  # what draw 0 hides, draw 1 may show
    with_run(params, teachers=["wise"], methods=[{"name": "aft", "weight": 3.0}])
    train("trial", params, project)
    first = weights(project, "trial", 0)
    honest = Dataset.open(project / "data")
    unseen = np.concatenate([honest.split(0).unlabelled, honest.split(0).test])
    lies = honest.labels.copy()
    lies[unseen] = (lies[unseen] + 1) % 3
    monkeypatch.setattr(Dataset, "labels", property(lambda data: lies))
    train("trial", params, project)
    assert same(first, weights(project, "trial", 0))


def test_unlabelled_rows_teach_a_method(project: Path, params: Params):
    """A word that stands in unlabelled rows only is moved by a method, and by plain training is not."""
    train("none", params, project)
    with_run(params, teachers=["wise"], methods=[{"name": "kd", "weight": 1.0}])
    train("trial", params, project)
    data = Dataset.open(project / "data")
    split = data.split(0)
    vocabulary = json.loads((project / "runs" / "none" / "students" / "0" / "student.json").read_text())["fitted"]
    labelled = set(" ".join(data.content(split.labelled)).split())
    only = [n for n, word in enumerate(vocabulary["vocabulary"], start=1) if word not in labelled]
    assert only
    plain, aided = (weights(project, run, 0)["words.weight"] for run in ("none", "trial"))
    blueprint = load_student(project / "runs" / "none" / "students" / "0")[0]
    torch.manual_seed(0)
    start = blueprint.build().state_dict()["words.weight"].numpy()
    assert np.allclose(plain[only], start[only])
    assert (np.abs(aided[only] - start[only]).max(1) > 1e-3).all()


def test_a_method_sees_the_same_rows_of_student_teachers_and_labels(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    """Each row of a batch is known by the words that the student read when it made the features of that row."""
    read: list[tuple[list[list[int]], torch.Tensor]] = []
    steps: list[tuple[list[list[int]], Signals]] = []
    read_by, told_to = BagOfWords.forward, kd.FeatureDistillation.forward

    def student(self: BagOfWords, inputs: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        features, logits = read_by(self, inputs)
        numbers, offsets = inputs
        read.append(([words.tolist() for words in numbers.tensor_split(offsets[1:])], features))
        return features, logits

    def method(self: kd.FeatureDistillation, signals: Signals) -> torch.Tensor:
        texts, features = read[-1]
        # The log's look at the chance level, which moves the rows on purpose, has no gradient.
        if torch.is_grad_enabled():
            at = [int((features == row).all(1).nonzero()[0]) for row in signals.features]
            steps.append(([texts[i] for i in at], signals))
        return told_to(self, signals)

    monkeypatch.setattr(BagOfWords, "forward", student)
    monkeypatch.setattr(kd.FeatureDistillation, "forward", method)
    with_run(params, teachers=["wise", "loud"], methods=[{"name": "kd", "weight": 1.0}])
    params.values["runs"]["trial"]["train"] = {"steps": 4, "seeds": [0]}
    train("trial", params, project)

    data = Dataset.open(project / "data")
    split, every = data.split(0), np.arange(len(data))
    fitted = json.loads((project / "runs" / "trial" / "students" / "0" / "student.json").read_text())["fitted"]
    numbers = {word: number for number, word in enumerate(fitted["vocabulary"], start=1)}
    texts = [tuple(numbers[word] for word in text.split() if word in numbers) for text in data.content(every)]
    row_of = dict(zip(texts, every, strict=True))
    assert len(row_of) == len(data)
    stores = [FeatureStore.open(project / "features" / f"{name}.zarr") for name in ("wise", "loud")]
    labels = np.full(len(data), -1)
    labels[split.labelled] = data.labels[split.labelled]
    assert len(steps) == 4
    for words, signals in steps:
        rows = np.array([row_of[tuple(text)] for text in words])
        assert len(set(rows)) == 32
        for store, features in zip(stores, signals.teachers, strict=True):
            assert np.array_equal(features.numpy(), store.reader(store.head_name())(rows))
        assert np.array_equal(signals.labels.numpy(), labels[rows])
    assert {-1, 0, 1, 2} == {int(label) for _, signals in steps for label in signals.labels}


@pytest.mark.parametrize("rate", [0.3, 0.002])
def test_a_methods_own_parameters_learn_at_its_own_rate(project: Path, params: Params, rate: float):
    """The first step of Adam moves a parameter by the rate, whatever the gradient; the gates' scores start at 0."""
    with_run(params, teachers=["wise"], methods=[{"name": "aft", "weight": 3.0, "learning_rate": rate}])
    params.values["runs"]["trial"]["train"] = {"steps": 1, "seeds": [0]}
    train("trial", params, project)
    gates = np.array(json.loads((project / "runs" / "trial" / "gates.json").read_text())["gates"]["wise"][0])
    scores = np.log(gates / (1 - gates))
    assert np.abs(scores) == pytest.approx(np.full(24, rate), rel=1e-2)
    assert min(scores) < 0 < max(scores)


def test_a_schedule_multiplies_the_weight(project: Path, params: Params):
    """A weight that starts at 0 leaves the first step to plain training; one that is constant does not."""
    params.values["students"]["bag"]["dropout"] = 0.0
    trained = {}
    for name, method in (("plain", 0.0), ("rising", 3.0), ("constant", 3.0)):
        schedule = "linear_rise" if name == "rising" else "constant"
        with_run(params, teachers=["wise"], methods=[{"name": "kd", "weight": method, "schedule": schedule}])
        params.values["runs"]["trial"]["train"] = {"steps": 1, "seeds": [0]}
        train("trial", params, project)
        trained[name] = weights(project, "trial", 0)
    moved = {name: np.abs(w["head.weight"] - trained["plain"]["head.weight"]).max() for name, w in trained.items()}
    assert moved["rising"] < 1e-6
    words = {name: np.abs(w["words.weight"] - trained["plain"]["words.weight"]).max() for name, w in trained.items()}
    assert words["rising"] < 1e-6 < 1e-3 < words["constant"]


def test_a_shuffled_teacher_is_another_teacher(project: Path, params: Params):
    method = [{"name": "kd", "weight": 1.0}]
    with_run(params, teachers=["wise"], methods=method)
    train("trial", params, project)
    straight = weights(project, "trial", 0)
    with_run(params, teachers=["wise"], methods=method, shuffle_teachers=True)
    train("trial", params, project)
    assert not same(straight, weights(project, "trial", 0))


def test_a_run_changes_train_settings_for_itself(project: Path, params: Params):
    with_run(params, train={"steps": 3, "seeds": [1]})
    train("trial", params, project)
    record = record_of(project, "trial")
    assert (record.steps, record.seeds) == (3, (1,))


def test_labels_on_all_rows_need_no_second_batch():
    rows = np.arange(60)
    split = Split(labelled=rows[:40], unlabelled=rows[:0], val=rows[40:50], test=rows[50:])
    settings = TrialSettings(steps=4, batch_size=8, transfer_batch_size=16)
    sizes = [(len(rows), count) for rows, count in batches(split, 0, settings, True)]
    assert sizes == [(8, 8)] * 4


def test_methods_can_be_kept_from_unlabelled_rows():
    rows = np.arange(60)
    split = Split(labelled=rows[:12], unlabelled=rows[12:40], val=rows[40:50], test=rows[50:])
    settings = TrialSettings(steps=6, batch_size=8, transfer_batch_size=16, unlabelled=False)
    for seen, count in batches(split, 0, settings, True):
        assert len(seen) == count == 8
        assert set(seen) <= set(split.labelled)


def test_batches_are_shuffled_anew_and_whole():
    batches = shuffled(np.arange(10), 4, np.random.default_rng(0))
    epochs = [np.concatenate([next(batches), next(batches)]) for _ in range(50)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert set(np.concatenate(epochs)) == set(range(10))
    assert len({tuple(epoch) for epoch in epochs}) == 50


def test_the_labelled_batches_do_not_depend_on_the_method():
    rows = np.arange(60)
    split = Split(labelled=rows[:12], unlabelled=rows[12:40], val=rows[40:50], test=rows[50:])
    settings = TrialSettings(steps=6, batch_size=8, transfer_batch_size=16)
    plain = [rows[:count] for rows, count in batches(split, 3, settings, False)]
    aided = list(batches(split, 3, settings, True))
    assert all(np.array_equal(a, rows[:count]) for a, (rows, count) in zip(plain, aided, strict=True))
    assert all(len(rows) == count + 16 for rows, count in aided)


def test_the_learning_rate_rises_then_falls_to_nothing():
    settings = TrialSettings(steps=100, warmup=0.1)
    rates = [rate(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert np.argmax(rates) in (9, 10)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0.0, abs=1e-9)


def test_the_smallest_of_tied_weights_is_chosen():
    tied = scored({0.0: (0.5, 0.6), 1.0: (0.6, 0.8), 3.0: (0.7, 0.7), 9.0: (0.9, 0.4)})
    assert choose(tied, "run", ACCURACY) == Candidate((1.0,))


def test_equal_means_tie_though_floating_point_tells_them_apart():
    plain, other = (0.58, 0.75, 0.72, 0.61, 0.6), (0.65, 0.65, 0.65, 0.65, 0.66)
    assert np.mean(plain) < np.mean(other)
    assert choose(scored({0.0: plain, 3.0: other}), "run", ACCURACY) == Candidate((0.0,))


def test_a_metric_where_less_is_better_chooses_the_smallest_mean():
    assert choose(scored({0.0: (0.5, 0.6), 1.0: (0.2, 0.3)}), "run", RMSE) == Candidate((1.0,))


def test_a_candidate_that_diverged_on_any_seed_is_not_chosen():
    assert choose(scored({0.0: (0.5, 0.5), 9.0: (0.9, None)}), "run", ACCURACY) == Candidate((0.0,))
    with pytest.raises(UserError, match=r"run: seed 1, step 4: the loss is not finite; lower train.learning_rate"):
        choose(scored({9.0: (0.9, None)}), "run", ACCURACY)


@pytest.mark.parametrize(("device", "expected"), [("cpu", 3), ("cuda", 1), ("cuda:1", 1), ("mps", 1)])
def test_trials_share_an_accelerator_by_turns(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, device: str, expected: int
):
    session = Session(Plan.read("aft", params, Project(project)))
    trials = candidates.trials_of(session)
    session.device = torch.device(device)
    session.plan = replace(session.plan, machine=Machine(workers=None))
    used = []

    def engine(make_worker: Any, items: Any, workers: int, *settings: Any) -> Iterator[int]:
        used.append(workers)
        yield from ()

    monkeypatch.setattr(worker, "engine", lambda name: engine)
    monkeypatch.setattr(worker, "cores", lambda: 3)
    worker.train_missing(session, trials, trials)
    assert used == [expected]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_diverging_candidate_does_not_end_the_search(project: Path, params: Params, workers: int):
    params.values["machine"]["workers"] = workers
    short = {"steps": 3, "seeds": [0, 1]}
    with_run(params, search={"train.learning_rate": [1e30, 0.01]}, train=short)
    result = train("trial", params, project)
    text = (project / "runs" / "trial" / "run.json").read_text()
    json.loads(text, parse_constant=lambda value: pytest.fail(f"{value} is not JSON"))
    record = record_of(project, "trial")
    assert record.chosen_settings == {"train.learning_rate": 0.01}
    assert record.trainings == 3
    assert [c.val_scores for c in record.candidates] == [(None,), tuple(result.val_scores)]
    assert result.candidates["none, learning_rate 1e+30"] is None
    (warning,) = result.warnings
    assert re.match(
        r"candidate `none, learning_rate 1e\+30` diverged and cannot be chosen: seed 0.*not finite", warning
    )
    assert f"warning: {warning}" in str(result)
    with (project / "runs" / "trial" / "curves.csv").open() as file:
        assert {line["weight"] for line in csv.DictReader(file)} == {"none, learning_rate 0.01"}
    assert sorted(path.name for path in (project / "runs" / "trial").iterdir()) == [
        "curves.csv",
        "run.json",
        "students",
    ]


def test_a_weight_that_diverges_is_not_chosen(project: Path, params: Params):
    with_run(params, teachers=["wise"], methods=[{"name": "aft", "weight": [0.0, 1e39]}], train={"steps": 3})
    result = train("trial", params, project)
    assert result.chosen == Candidate((0.0,)) and result.candidates["1e+39"] is None


@pytest.mark.parametrize("rates", [[1e30], [1e30, 1e31]])
def test_if_no_candidate_is_left_the_first_divergence_is_reported(project: Path, params: Params, rates: list[float]):
    with_run(params, search={"train.learning_rate": rates}, train={"steps": 3})
    with pytest.raises(
        UserError, match=r"trial: seed 0, step \d+: .*not finite; rows .*; lower train.learning_rate"
    ) as caught:
        train("trial", params, project)
    assert "\n" not in str(caught.value)


def test_a_student_that_the_last_step_ruined_is_not_kept(project: Path, params: Params):
    """Losses are looked at before their update, so what the last update does is seen by nothing else."""
    with_run(params, train={"steps": 1, "seeds": [0], "learning_rate": 1e30})
    with pytest.raises(UserError, match="seed 0, after the last step: the outputs on validation rows are not finite"):
        train("trial", params, project)


@pytest.mark.parametrize("first", [0, 2])
def test_linear_algebra_that_fails_on_the_way_is_divergence(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, first: int
):
    losses, calls = trial.losses, []

    def failing(draw: Any, student: Any, pulls: Any, *rest: Any) -> Any:
        calls.append(bool(pulls))
        if sum(calls) > first and pulls:
            raise torch.linalg.LinAlgError("linalg.eigh: the input is\nnot finite")
        return losses(draw, student, pulls, *rest)

    monkeypatch.setattr(trial, "losses", failing)
    short = {"steps": 4, "seeds": [0]}
    with_run(params, teachers=["wise"], methods=[{"name": "kd", "weight": [0.0, 1.0]}], train=short)
    if first == 0:  # at the first step nothing has moved: that is no divergence
        with pytest.raises(torch.linalg.LinAlgError):
            train("trial", params, project)
        return
    result = train("trial", params, project)
    assert result.chosen == Candidate((0.0,))
    assert "seed 0, step 2: linalg.eigh: the input is not finite; lower train.learning_rate" in result.warnings[0]


def test_every_method_is_logged_with_its_chance_level(project: Path, params: Params):
    methods = [{"name": "aft", "weight": 3.0}, {"name": "logit_kd", "weight": 1.0}]
    with_run(params, teachers=["wise"], methods=methods)
    train("trial", params, project)
    found = record_of(project, "trial").diagnostics[0]
    assert list(found.penalties) == ["aft", "logit_kd"]
    with (project / "runs" / "trial" / "curves.csv").open() as file:
        last = [line for line in csv.DictReader(file) if line["seed"] == "0" and line["penalty_aft"]][-1]
    for name, level in found.penalties.items():
        assert float(last[f"penalty_{name}"]) == pytest.approx(level.end)
        assert float(last[f"chance_{name}"]) == pytest.approx(level.chance)
        assert level.end < 0.8 * level.chance  # the teacher knows the task, and so does the student by now


def test_a_chance_level_that_is_not_finite_is_a_divergence(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    """It could not be written into the record, and nothing sound gives it."""
    params.values["machine"]["workers"] = 1
    monkeypatch.setattr("pipeline.training.log.chance_level", lambda transfer, signals: math.inf)
    with_run(params, teachers=["wise"], methods=[{"name": "aft", "weight": [0.0, 3.0]}])
    result = train("trial", params, project)
    assert result.candidates["3"] is None
    assert result.chosen.weights == (0.0,)


def test_a_run_is_trained_by_one_process_at_a_time(project: Path, params: Params):
    with_run(params)
    other = Lock(Project(project).lock("train", "trial"))
    assert other.acquire()
    with pytest.raises(UserError, match=r"is training `trial`; wait for it"):
        train("trial", params, project)
    other.release()
    train("trial", params, project)


def test_gates_of_two_methods_are_kept_apart(project: Path, params: Params):
    methods = [{"name": "aft", "weight": 3.0}, {"name": "aft_plus", "weight": 1.0}]
    with_run(params, teachers=["wise"], methods=methods)
    train("trial", params, project)
    gates = json.loads((project / "runs" / "trial" / "gates.json").read_text())["gates"]
    assert list(gates) == ["aft, wise", "aft_plus, wise", "aft_plus, wise: task"]


class NoLook(TorchDispatchMode):
    """Inside, a value that is taken from a tensor to the host fails: on a GPU the step would wait for it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


OPTIONS = {"accumulate": 2, "average": 0.9, "clip": 1.0, "precision": "float16", "label_smoothing": 0.1}


@pytest.mark.parametrize("options", [{}, OPTIONS])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_step_without_a_line_of_the_log_does_not_wait_for_the_device(
    project: Path, params: Params, device: str, options: dict[str, Any]
):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    methods = [{"name": "aft", "weight": 3.0}, {"name": "aft_plus", "weight": 1.0}]
    with_run(params, teachers=["wise"], methods=methods, train={"steps": 400, **options})  # a line every 20 steps
    run = Run.model_validate(params.values["runs"]["trial"])
    session = Session(Plan("trial", params, Project(project), run, Machine(device=device)))
    training = trial.run_trial(session, 0, run.candidates()[0])
    for _ in range(3):  # what comes before the first step, that step, which has a line, and one that sets things up
        next(training)
    try:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        with NoLook() if device == "cpu" else nullcontext():
            for _ in range(5):
                next(training)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


class NoConstants(TorchDispatchMode):
    """Inside, a tensor that is made of numbers in Python fails: on a GPU the step would wait until it is copied."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten.lift_fresh.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["bag_of_words", "static"])
def test_losses_and_gradients_need_no_numbers_of_the_host(
    project: Path, params: Params, tiny_encoder: Path, family: str
):
    encoder = {"model": str(tiny_encoder), "width": 8, "dimensions": 8} if family == "static" else {"width": 8}
    params.values["students"]["bag"] = {"family": family, **encoder}
    with_run(params, teachers=["wise"], methods=[{"name": "aft", "weight": 3.0}, {"name": "aft_plus", "weight": 1.0}])
    run = Run.model_validate(params.values["runs"]["trial"])
    session = Session(Plan("trial", params, Project(project), run, Machine(device="cpu")))
    started = trial.start(session, 0, run.candidates()[0])
    steps = enumerate(batches(started.data.split, 0, started.data.settings, True))
    ready = trial.ready_parts(started.data, steps, started.penalties)
    for step in range(2):
        part = next(ready)
        with NoConstants() if step else nullcontext():  # the first one sets things up
            task_loss, penalties, *_ = trial.losses(started.data, started.student, started.penalties, part, 0.0)
            sum(penalties.values(), task_loss).backward()
        assert all(weight.grad is not None for weight in started.student.head.parameters())


def test_settings_are_searched_and_the_student_kept_is_the_one_of_the_best(project: Path, params: Params):
    search = {"student.width": [4, 8], "train.learning_rate": [1e-5, 0.02]}
    with_run(params, search=search, train={"race": False})
    result = train("trial", params, project)
    record = record_of(project, "trial")
    assert result.trained == 12 and len(record.candidates) == 4
    tried = {json.dumps(c.settings): np.mean(c.val_scores) for c in record.candidates}
    assert tried[json.dumps(record.chosen_settings)] == pytest.approx(max(tried.values()))
    width, rate = record.chosen_settings["student.width"], record.chosen_settings["train.learning_rate"]
    assert record.settings["learning_rate"] == rate
    assert record.student.width == width
    for seed in range(3):
        assert weights(project, "trial", seed)["head.weight"].shape[1] == width
    alone = {"student.width": [width], "train.learning_rate": [rate]}
    with_run(params, search=alone)
    train("trial", params, project)
    again = record_of(project, "trial")
    assert list(again.candidates[0].val_scores) == result.val_scores


def test_a_searched_setting_that_does_not_exist_is_refused_before_training(project: Path, params: Params):
    with_run(params, search={"student.dropuot": [0.1]})
    with pytest.raises(UserError, match=r"students.bag \(with runs.trial.search\): unknown key `dropuot`"):
        train("trial", params, project)


def test_settings_of_a_method_are_searched(project: Path, params: Params):
    methods = [{"name": "aft", "weight": [0.0, 30.0]}]
    with_run(params, teachers=["wise"], methods=methods, search={"methods.aft.form": ["fixed", "dense"]})
    result = train("trial", params, project)
    assert list(result.candidates) == ["0", "30, aft.form fixed", "30, aft.form dense"]
    for form in ("fixed", "dense"):
        with_run(params, teachers=["wise"], methods=[{"name": "aft", "weight": 30.0, "form": form}])
        assert train("trial", params, project).candidates == {"30": result.candidates[f"30, aft.form {form}"]}


def test_settings_that_fit_only_what_is_searched_are_no_mistake(project: Path, params: Params):
    """Alone, and at weight 0, `dense_start` would belong to no form."""
    methods = [{"name": "aft", "weight": [0.0, 3.0], "dense_start": "identity"}]
    with_run(params, teachers=["wise"], methods=methods, search={"methods.aft.form": ["dense"]}, train={"steps": 3})
    assert list(train("trial", params, project).candidates) == ["0", "3, aft.form dense"]


def test_a_searched_setting_of_a_method_that_is_wrong_is_refused_before_training(project: Path, params: Params):
    methods = [{"name": "aft", "weight": 30.0}]
    with_run(params, teachers=["wise"], methods=methods, search={"methods.aft.frm": ["fixed"]})
    with pytest.raises(UserError, match=r"methods.aft \(with runs.trial.search\): unknown key `frm`"):
        train("trial", params, project)
    # Of the second value, and of what only building finds out.
    with_run(params, teachers=["wise"], methods=methods, search={"methods.aft.queue": [0, 10**6]})
    with pytest.raises(UserError, match=r"queue: 1000000 exceeds"):
        train("trial", params, project)
    assert not list(project.glob("trials/*"))


def test_an_automatic_weight_tries_the_settings_that_its_method_lists(project: Path, params: Params):
    """Unless the run sets or searches them; each at weights of its own, because another penalty pulls otherwise."""
    methods = [{"name": "aft_plus", "weight": "auto"}]
    with_run(params, teachers=["wise"], methods=methods, train={"steps": 3})
    tried = [label.partition(", ") for label in train("trial", params, project).candidates]
    assert tried[0] == ("0", "", "") and {label for _, _, label in tried[1:]} == {"aft_plus.mix True"}
    weights = [float(weight) for weight, _, _ in tried]
    assert len(weights) == len(auto_weight.RATIOS)
    search = {"methods.aft_plus.head": [1.0, 0.0], "methods.aft_plus.mix": [False]}
    with_run(params, teachers=["wise"], methods=methods, search=search, train={"steps": 3})
    tried = [label.partition(", ") for label in train("trial", params, project).candidates]
    by_head = {head: [float(weight) for weight, _, label in tried if label == head] for _, _, head in tried[1:]}
    assert list(by_head) == ["aft_plus.head 1.0, aft_plus.mix False", "aft_plus.head 0.0, aft_plus.mix False"]
    with_head, without = by_head.values()
    assert [0.0, *with_head] == weights and len(without) == len(with_head) and with_head[0] != without[0]
    set_here = {"head": 0.0, "mix": False}
    with_run(params, teachers=["wise"], methods=[methods[0] | set_here], train={"steps": 3})
    assert [float(label) for label in train("trial", params, project).candidates] == [0.0, *without]
    with_run(params, teachers=["wise"], methods=[{"name": "aft_plus", "weight": 3.0}], train={"steps": 3})
    assert list(train("trial", params, project).candidates) == ["3"]


def test_an_automatic_weight_is_measured_and_nothing_is_among_what_it_tries(project: Path, params: Params):
    with_run(params, teachers=["wise"], methods=[{"name": "aft", "weight": "auto"}], train={"race": False})
    result = train("trial", params, project)
    record = record_of(project, "trial")
    tried = [c.weights[0] for c in record.candidates]
    assert tried[0] == 0 and len(tried) == len(auto_weight.RATIOS)
    assert max(result.candidates.values()) == pytest.approx(np.mean(result.val_scores))
    train("none", params, project)
    plain = record_of(project, "none")
    assert record.candidates[0].val_scores == plain.candidates[0].val_scores
    # At the first step of the first seed, the penalty at ratio 10 pulls about ten times as hard as the task.
    with_run(params, teachers=["wise"], methods=[{"name": "aft", "weight": tried[auto_weight.RATIOS.index(10.0)]}])
    train("trial", params, project)
    found = record_of(project, "trial").diagnostics[0]
    assert 5 < found.gradient_ratio_start < 20


@pytest.mark.parametrize("method", ["aft", "logit_kd", "aft_plus"])
def test_an_automatic_weight_does_not_depend_on_the_size_of_the_initial_head(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, method: str
):
    """Some students of timm start with a last layer of zeros, or nearly: through it the task does not pull."""
    with_run(params, teachers=["wise"], methods=[{"name": method, "weight": "auto"}], train={"steps": 1, "seeds": [0]})
    build = Blueprint.build

    def tried(size: float) -> list[float]:
        def scaled(blueprint: Blueprint, pretrained: bool = True) -> Any:
            student: Any = build(blueprint, pretrained)
            student.head.weight.data *= size
            student.head.bias.data *= size
            return student

        monkeypatch.setattr(Blueprint, "build", scaled)
        train("trial", params, project)
        record = record_of(project, "trial")
        return [candidate.weights[0] for candidate in record.candidates]

    ordinary = tried(1.0)
    with monkeypatch.context() as patch:  # whatever is done about small heads
        patch.setattr(auto_weight, "SMALL", 0.0)
        assert tried(1.0) == ordinary
    for size in (0.0, 1e-4):
        assert tried(size)[0] == 0
        assert tried(size)[1:] == pytest.approx(ordinary[1:], rel=0.7)


def follow_heads(
    project: Path, params: Params, logits: np.ndarray | None = None, follow: str = "head", **run: Any
) -> FeatureStore:
    """A run of both teachers whose students follow their heads, and the store of the first, which has these logits."""
    data = Dataset.open(project / "data")
    logits = class_logits(data) if logits is None else logits
    head = "logits" if follow == "head" else "zero_shot"
    methods = [{"name": "logit_kd", "weight": 1.0, "logits": follow, "temperature": 1.0}]
    with_run(params, teachers=["wise", "loud"], methods=methods, **run)
    write_store(data, project / "features" / "loud.zarr", 8, 2, 0.5 * class_logits(data), head)
    return write_store(data, project / "features" / "wise.zarr", 24, 1, logits, head)


@pytest.mark.parametrize(
    ("follow", "shuffle"), [("head", False), ("head", True), ("zero_shot", False), ("probe_and_zero_shot", True)]
)
def test_the_logits_of_a_head_are_those_of_the_rows_that_the_student_saw(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, follow: str, shuffle: bool
):
    """Shuffled, the logits go with the teacher's row."""
    seen: list[Signals] = []
    batches: list[np.ndarray] = []
    penalty, losses = logit_kd.LogitDistillation.forward, trial.losses

    def keep(module: logit_kd.LogitDistillation, signals: Signals) -> torch.Tensor:
        seen.append(signals)
        return penalty(module, signals)

    def keep_rows(data: TrialData, student: Any, penalties: Any, ready: Ready, *others: Any) -> Any:
        batches.append(data.stand_in[ready.part.rows[ready.part.labelled :]])
        return losses(data, student, penalties, ready, *others)

    wise = follow_heads(project, params, None, follow, train={"seeds": [1], "steps": 3}, shuffle_teachers=shuffle)
    kind, head = ("head", "logits") if follow == "head" else ("zero_shot", "zero_shot")
    loud = FeatureStore.open(project / "features" / "loud.zarr")
    monkeypatch.setattr(logit_kd.LogitDistillation, "forward", keep)
    monkeypatch.setattr("pipeline.training.trial.losses", keep_rows)
    monkeypatch.setattr("pipeline.training.log.chance_level", lambda transfer, signals: 0.0)
    train("trial", params, project)
    assert len(seen) == len(batches) == 3
    for signals, rows in zip(seen, batches, strict=True):
        assert signals.teachers == ()  # nothing else is read
        assert set(signals.teacher_outputs) == ({kind, "linear"} if follow == "probe_and_zero_shot" else {kind})
        for store, logits in zip((wise, loud), signals.teacher_outputs[kind], strict=True):
            assert np.array_equal(logits.numpy(), store.reader(head)(rows))


def test_a_student_learns_from_the_heads_of_its_teachers(project: Path, params: Params):
    follow_heads(project, params, train={"steps": 150})
    lines: list[str] = []
    result = train("trial", params, project, say=lines.append)
    assert [line.partition(":")[2].split(" mapped")[0] for line in lines[:-1]] == [
        " wise", " loud", " wise/logits", " loud/logits"
    ]  # fmt: skip
    assert np.mean(result.val_scores) > 0.6
    found = record_of(project, "trial").diagnostics[0]
    assert found.penalties["logit_kd"].end < 0.8 * found.penalties["logit_kd"].chance


def test_a_head_that_nobody_follows_changes_nothing(project: Path, params: Params):
    with_run(params, teachers=["wise", "loud"], methods=[{"name": "logit_kd", "weight": 1.0}])
    train("trial", params, project)
    first = weights(project, "trial", 0)
    follow_heads(project, params, np.zeros((240, 7)))
    with_run(params, teachers=["wise", "loud"], methods=[{"name": "logit_kd", "weight": 1.0, "logits": "probe"}])
    train("trial", params, project)
    assert same(first, weights(project, "trial", 0))


def refused(project: Path, params: Params) -> str:
    """What is said of the run before a student is trained."""
    with pytest.raises(UserError) as caught:
        train("trial", params, project)
    assert "\n" not in str(caught.value)
    assert not list(project.glob("trials/*"))
    return str(caught.value)


def test_a_head_that_cannot_be_followed_is_refused_before_training(project: Path, params: Params):
    with_run(params, teachers=["wise"], methods=[{"name": "logit_kd", "weight": [0.0, 1.0], "logits": "head"}])
    said = refused(project, params)
    assert "wise.zarr: no head `logits`" in said
    assert "set `heads: [pooled, logits]` at teachers.wise in params.yaml and run `aft extract wise`" in said
    assert said.endswith("or set `logits: probe`")
    follow_heads(project, params, np.zeros((240, 1000)))
    assert "wise.zarr: head `logits` has 1000 columns and the task 3 outputs" in refused(project, params)
    (project / "params.yaml").write_text(yaml.safe_dump(params.values))
    command = [sys.executable, "-m", "stages.train", "trial"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    ended = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1) and "1000 columns" in ended.stderr


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_head_of_classes_in_another_order_is_refused_before_training(project: Path, params: Params, shuffle: bool):
    data = Dataset.open(project / "data")
    follow_heads(project, params, class_logits(data)[:, [1, 2, 0]], shuffle_teachers=shuffle)
    said = refused(project, params)
    assert "its outputs are likely in another order" in said and "training and validation rows" in said
    splits = [data.split(draw) for draw in (0, 1)]  # of seeds 0, 1, 2
    rows = np.unique(np.concatenate([part for split in splits for part in (split.labelled, split.val)]))
    right = sum(class_logits(data)[row, [1, 2, 0]].argmax() == data.labels[row] for row in rows)
    most = max(sum(data.labels[row] == number for row in rows) for number in range(3))
    shares = [f"{count / len(rows):.4f}" for count in (right, most)]
    assert f"has accuracy {shares[0]} on {len(rows)} training and" in said and f"every row {shares[1]}: " in said


@pytest.mark.parametrize(("more", "passes"), [(0, False), (1, True)])
def test_a_head_must_be_right_more_often_than_one_that_always_says_the_same(
    project: Path, params: Params, more: int, passes: bool
):
    data = Dataset.open(project / "data")
    rows = np.concatenate([data.split(0).val, data.split(0).labelled])
    counts = np.bincount(data.labels[rows])
    logits = np.tile(np.eye(3)[counts.argmax()], (len(data), 1))
    others = rows[data.labels[rows] != counts.argmax()][:more]
    logits[others] = np.eye(3)[data.labels[others]]
    follow_heads(project, params, logits, train={"seeds": [0], "steps": 2})
    if passes:
        train("trial", params, project)
    else:
        assert "another order" in refused(project, params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.values["train"].update(step=3), "unknown key `step`"),
        (lambda p: p.values["runs"]["aft"]["methods"][0].update(gats="x"), r"runs.aft.methods.aft: unknown key `gats`"),
        (lambda p: p.values["runs"]["aft"].update(train={"lr": 1}), r"train \(for aft\): unknown key `lr`"),
        (lambda p: p.values["students"]["bag"].update(width=0), "students.bag.width"),
        (lambda p: p.values["students"]["bag"].update(family="bag"), "no 'bag' in pipeline/students/"),
        (lambda p: p.values["machine"].update(device="cuda"), "no GPU"),
        (lambda p: p.values["train"].update(learning_rate=1e30), "not finite"),
    ],
)
def test_what_is_wrong_is_reported_in_one_line(project: Path, params: Params, change: Any, message: str):
    if "GPU" in message and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    change(params)
    with pytest.raises(UserError, match=message) as caught:
        train("aft", params, project)
    assert "\n" not in str(caught.value)


def test_nothing_that_learned_from_damaged_features_is_kept(project: Path, params: Params):
    paths = Project(project)
    flip_a_bit(paths.store("wise"))
    with pytest.raises(UserError, match=r"wise\.zarr.*damaged"):
        train("aft", params, project)
    assert not paths.run("aft").exists()
    assert not list(paths.trials.glob("*/trial.json"))
