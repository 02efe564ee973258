"""A sweep end to end: what is trained, found, chosen, refused, and left after a kill."""

import io
import json
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline import training
from pipeline.data import Dataset, PrepareSettings, open_labelled, prepare
from pipeline.errors import UserError
from pipeline.locks import Lock
from pipeline.params import Params
from pipeline.probing import ProbeSettings, labels, probe
from pipeline.project import Project
from pipeline.records import SweepRecord, SweepStatus
from pipeline.sweeping import Swept, board, slots, sweep, trials_of_sweeps, worker
from pipeline.sweeping.planning import Planner, plan_grids

OVER = {"student": "bag", "teachers": "wise", "methods": ["none", "aft"], "weight": [1.0, 10.0]}


def with_sweep(params: Params, over: Any = OVER, steps: int = 3, **more: Any) -> Params:
    values = {"train": params.values["train"] | {"steps": steps, "seeds": [0, 1]}}
    return Params(params.values | values | {"sweep": {"mine": {"over": over} | more}})


def run(project: Path, params: Params, **options: Any) -> Swept:
    return sweep("mine", params, Project(project), **options)


def record_of(project: Path) -> SweepRecord:
    return SweepRecord.read(Project(project).sweep("mine"), "mine")


def trials(project: Path) -> set[str]:
    return {path.name for path in (project / "trials").iterdir() if not path.name.startswith(".")}


def test_every_point_is_trained_once_and_recorded(project: Path, params: Params):
    mine = with_sweep(params)
    first = run(project, mine, jobs=1)
    assert (first.trained, first.found, first.failed) == (6, 0, [])
    record, content = record_of(project), Project(project).sweep("mine").read_bytes()
    assert [point.values.get("weight") for point in record.points] == [None, 1.0, 10.0]
    assert {digest for point in record.points for digest in point.trials} == trials(project)
    best = record.ranked[0]
    assert best.mean == max(np.mean(point.val_scores) for point in record.points)
    again = run(project, mine, jobs=1)
    assert (again.trained, again.found) == (0, 6)
    assert Project(project).sweep("mine").read_bytes() == content
    text = str(again)
    assert "3 points, 6 trials: 0 trained, 6 found, 0 failed" in text and "optimistic" in text
    # What it prints goes into `runs` as it is, and is trained already.
    section = yaml.safe_load("\n".join(line[2:] for line in text.splitlines() if line.startswith(("  best:", "    "))))
    promoted = training.train("best", Params(mine.values | {"runs": section}), Project(project))
    assert (promoted.trained, promoted.val_scores) == (0, list(best.val_scores))


def test_what_a_run_has_trained_is_not_trained_again(project: Path, params: Params):
    mine = with_sweep(params)
    training.train("none", mine, Project(project))
    assert (run(project, mine, jobs=1).trained, run(project, mine, jobs=1).found) == (4, 6)
    found = training.train("aft", with_sweep(params, OVER), Project(project)).found
    assert found == 2, "plain training, which the run searches, too"


def test_a_point_that_starts_from_a_run_chooses_as_the_run_does(project: Path, params: Params):
    over = {"run": ["none", "aft"], "train.learning_rate": [0.01, 0.03]}
    assert run(project, with_sweep(params, over), jobs=1).trained == 8
    trained = training.train("aft", with_sweep(params), Project(project))
    assert trained.trained == 0
    point = next(p for p in record_of(project).points if p.values == {"run": "aft", "train.learning_rate": 0.01})
    assert (point.val_scores, point.chosen) == (tuple(trained.val_scores), trained.chosen.label)


def test_worker_processes_change_nothing(project: Path, params: Params, tmp_path: Path):
    run(project, with_sweep(params), jobs=2)
    content = Project(project).sweep("mine").read_bytes()
    for path in (project / "trials").iterdir():
        path.rename(tmp_path / path.name)
    run(project, with_sweep(params), jobs=1)
    assert Project(project).sweep("mine").read_bytes() == content


def test_where_trains_some_points_and_writes_no_record(project: Path, params: Params):
    swept = run(project, with_sweep(params), jobs=1, where="methods=aft,weight>1")
    assert (swept.trained, swept.path, len(swept.record.points)) == (2, None, 1)
    with pytest.raises(UserError, match="no point meets --where"):
        run(project, with_sweep(params), where="weight>99")
    with pytest.raises(UserError, match="no `wieght`"):
        run(project, with_sweep(params), where="wieght>9")


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_diverges_is_listed_and_does_not_stop_the_rest(project: Path, params: Params, jobs: int):
    swept = run(project, with_sweep(params, {"student": "bag", "train.learning_rate": [1e30, 0.01]}), jobs=jobs)
    diverged, done = swept.record.points
    assert (diverged.outcome, done.outcome, swept.failed) == ("diverged", "done", [])
    assert "diverged  student=bag, train.learning_rate=1e+30: seed 0, " in str(swept)
    with pytest.raises(UserError, match=r"sweep.mine: every point diverged: seed 0, .*; lower train.learning_rate"):
        run(project, with_sweep(params, {"student": "bag", "train.learning_rate": [1e30]}), jobs=1)


def test_what_cannot_be_trained_is_listed_and_trained_the_next_time(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
):
    class Broken(worker.TrialWorker):
        def __call__(self, trials: Any) -> Any:
            for trial in trials:
                if trial.candidate.weights == (10.0,) and trial.seed == 1:
                    raise UserError("the disk is full")
                yield from super().__call__([trial])

    with monkeypatch.context() as kept:
        kept.setattr(worker, "TrialWorker", Broken)
        swept = run(project, with_sweep(params), jobs=1)
    assert swept.failed == ["student=bag, teachers=wise, methods=aft, weight=10: the disk is full"]
    assert (swept.trained, swept.path, len(swept.record.points)) == (5, None, 2)
    assert not Project(project).sweep("mine").exists()
    assert run(project, with_sweep(params), jobs=1).trained == 1


def test_the_command_ends_with_2_where_a_trial_failed(
    project: Path, params: Params, aft: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    (project / "params.yaml").write_text(yaml.safe_dump(with_sweep(params).values, sort_keys=False))
    with monkeypatch.context() as kept:
        kept.setattr(worker.TrialWorker, "__call__", lambda self, trials: (_ for _ in ()).throw(UserError("no")))
        failed = aft("sweep")
    assert failed.returncode == 2 and "no point could be trained: " in failed.stderr
    done = aft("sweep", "mine", "--json")
    assert done.returncode == 0 and len(json.loads(done.stdout)["record"]["points"]) == 3
    shown = aft("sweep", "--watch")
    assert shown.returncode == 0 and "sweep mine: 6/6 trials done, 0 failed, 0 left; best so far 0." in shown.stdout
    assert (project / "logs" / "mine.sweep.json").exists()


@pytest.mark.parametrize(
    ("over", "line"),
    [
        ({"student": "bgg"}, r"sweep.mine: student=bgg: no section `students.bgg` \(did you mean `bag`"),
        ({"student": "bag", "methods": "kd", "teachers": "wise"}, "every method needs a weight"),
        ({"student": "bag", "methods": "kd", "weight": 1.0}, "methods without teachers"),
        ({"student": "bag", "methods": "kdd", "teachers": "wise", "weight": 1.0}, "no 'kdd' in pipeline/methods/"),
        ({"student": "bag", "train.step": [3]}, "unknown key `step`"),
        ({"student": "bag", "students.bag.widht": [3]}, "unknown key `widht`"),
        ({"student": "bag", "teachers": "wise/layer:9", "methods": "kd", "weight": 1.0}, "layer:9"),
        ([{"student": "bag"}, {"student": "bag", "train.steps": [3, 4]}], "two points are the same training: `student"),
        ([{"student": "bag"}, {"student": "bag", "train.batch_size": 16}], "two points are the same training"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line_before_anything_is_trained(
    project: Path, params: Params, over: Any, line: str
):
    grids = over if isinstance(over, list) else [{"student": "bag"}, over]
    with pytest.raises(UserError, match=line) as refused:
        run(project, with_sweep(params, grids), jobs=1)
    assert "\n" not in str(refused.value)
    assert not (project / "trials").exists()


def test_another_process_that_runs_it_is_named(project: Path, params: Params):
    held = Lock(Project(project).lock("sweep", "mine"))
    assert held.acquire()
    with pytest.raises(UserError, match="runs the sweep `mine`; see it with `aft sweep mine --watch`"):
        run(project, with_sweep(params))
    held.release()


def test_a_store_that_changes_under_a_sweep_is_noticed(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch):
    of = worker.SweepWorker._of

    def change(self: Any, position: int) -> Any:
        # Every worker opens the stores after they were looked at.
        from pipeline.training import session

        monkeypatch.setattr(session.Session, "head_digests", lambda self, source: {"pooled": "another"})
        return of(self, position)

    monkeypatch.setattr(worker.SweepWorker, "_of", change)
    swept = run(project, with_sweep(params), jobs=1)
    assert len(swept.record.points) == 1, "plain training reads no store"
    assert all("features or probes changed after this training began" in line for line in swept.failed)
    assert len(trials(project)) == 2


def test_what_points_read_is_opened_once(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch):
    opened = []
    from pipeline.store import FeatureStore

    make = FeatureStore.reader
    monkeypatch.setattr(FeatureStore, "reader", lambda self, *given: opened.append(self) or make(self, *given))
    run(project, with_sweep(params, OVER | {"methods": ["none", "aft", "kd"], "train.steps": [2, 3]}), jobs=1)
    assert len(opened) == 2, "once to plan, once to train"


def test_trials_of_a_sweep_are_in_use(project: Path, params: Params):
    mine = with_sweep(params)
    run(project, mine, jobs=1)
    used = trials_of_sweeps(mine, Project(project))
    assert used == trials(project)
    assert not training.unused_trials(mine, Project(project), kept=used).folders
    assert len(training.unused_trials(mine, Project(project)).folders) == 4


SCRIPT = """
import os, signal, sys
from pathlib import Path
from pipeline.params import Params
from pipeline.project import Project
from pipeline.sweeping import sweep
from pipeline.training import ledger

root = Path(sys.argv[1])

def go(stop):
    # In a process of its own; nothing was computed before the fork.
    child = os.fork()
    if not child:
        commit, calls = ledger.Ledger.commit, []
        def counting(*args, **options):
            calls.append(1)
            if len(calls) == 3 and stop:
                os.kill(os.getpid(), stop)
            commit(*args, **options)
        ledger.Ledger.commit = counting
        try:
            swept = sweep("mine", Params.load(root / "params.yaml"), Project(root), jobs=1)
            print(swept.trained, swept.found, flush=True)
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    kept = [path.name for path in (root / "trials").iterdir() if not path.name.startswith(".")]
    print(os.waitstatus_to_exitcode(status), len(kept), (root / "sweeps").exists(), flush=True)

for stop in (signal.SIGKILL, signal.SIGINT, 0):
    go(stop)
"""


def test_a_sweep_that_was_stopped_trains_only_what_is_missing(project: Path, params: Params):
    (project / "params.yaml").write_text(yaml.safe_dump(with_sweep(params).values, sort_keys=False))
    ended = subprocess.run([sys.executable, "-c", SCRIPT, project], capture_output=True, text=True)
    killed, interrupted, found, whole = ended.stdout.splitlines()
    assert (killed, interrupted) == (f"{-signal.SIGKILL} 2 False", "130 4 False")
    assert (found, whole) == ("2 4", "0 6 True"), ended.stderr
    content = Project(project).sweep("mine").read_bytes()
    shutil.rmtree(project / "trials")
    assert run(project, Params.load(project / "params.yaml"), jobs=1).trained == 6
    assert Project(project).sweep("mine").read_bytes() == content, "as if it had never been stopped"


def test_the_status_tells_best_done_failed_and_left(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch):
    seen: list[SweepStatus] = []
    show = board.Board.show
    monkeypatch.setattr(board.Board, "show", lambda self, last=False: (seen.append(self.status), show(self, last)))
    run(project, with_sweep(params, {"student": "bag", "train.learning_rate": [0.01, 1e30]}), jobs=1)
    assert (seen[0].trials, seen[0].done, seen[0].failed) == (4, 0, 0)
    last = seen[-1]
    assert (last.trials, last.done, last.failed, last.seconds_left) == (3, 2, 1, 0.0)
    assert last.best[0][0] == "student=bag, train.learning_rate=0.01"
    assert board.line_of(last).startswith("sweep mine: 2/3 trials done, 1 failed, 0 left; best so far 0.")
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(board.rendered(last))
    text = console.export_text()
    assert "failed: student=bag, train.learning_rate=1e+30: seed 0, " in text and "best so far" in text


def test_every_process_has_a_slot_of_its_own_for_as_long_as_it_lives(tmp_path: Path):
    taken = [slots.slot.__wrapped__(tmp_path, 3) for _ in range(3)]
    assert taken == [0, 1, 2]
    slots._KEPT.pop(-2).release()  # as when a process ends
    assert slots.slot.__wrapped__(tmp_path, 3) == 1
    while slots._KEPT:
        slots._KEPT.pop().release()


def test_numbers_of_labels_are_what_the_dataset_would_be_prepared_with(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    over = {"student": "bag", "teachers": "wise", "methods": ["none", "aft"], "dataset.labelled": [12, 24]}
    mine = with_sweep(params, over | {"methods.aft.weight": 3.0})
    first = run(project, mine, jobs=1)
    assert (first.trained, first.found, first.failed) == (8, 0, [])
    record, content = record_of(project), Project(project).sweep("mine").read_bytes()
    assert [point.values["dataset.labelled"] for point in record.points] == [12, 24, 12, 24]
    assert record.data == Dataset.open(project / "data").manifest.files_digest
    assert trials_of_sweeps(mine, Project(project)) == trials(project)
    # Probes are kept, and fitted again where something that they depend on has changed.
    fitted: list[str] = []
    monkeypatch.setattr(labels, "probe", lambda *given: fitted.append(given[0]) or probe(*given))  # type: ignore[func-returns-value]
    assert (run(project, mine, jobs=1).found, fitted) == (8, [])
    assert Project(project).sweep("mine").read_bytes() == content
    shutil.rmtree(project / ".aft" / "labels")
    there = set(project.rglob("*"))
    with pytest.raises(UserError, match=r"no probes of 12 labels .*; run the sweep, or remove it from the file"):
        trials_of_sweeps(mine, Project(project))
    assert set(project.rglob("*")) == there
    assert (run(project, mine, jobs=1).found, fitted) == (8, ["wise", "wise"])
    other = Params(mine.values | {"probe": {"strengths": [0.5]}})
    assert (run(project, other, jobs=1).found, len(fitted)) == (4, 4)

    # A project that was prepared with so many labels: the same rows, the same probes, the same scores.
    prepared = Path(shutil.copytree(project, tmp_path / "prepared"))
    monkeypatch.chdir(prepared)
    dataset = params.read(PrepareSettings, "dataset").model_copy(update={"labelled": 12})
    prepare(dataset, "data")
    probe("wise", params.read(ProbeSettings, "probe"), Project())
    data, same = Dataset.open("data"), open_labelled(project / "data", 12)
    assert all(data.split_digest(split) == same.split_digest(split) for split in range(data.splits))
    wanted = with_sweep(params, {key: value for key, value in over.items() if key != "dataset.labelled"})
    wanted.values["sweep"]["mine"]["over"]["methods.aft.weight"] = 3.0
    scores = [point.val_scores for point in record.points if point.values["dataset.labelled"] == 12]
    swept = sweep("mine", wanted, Project(), jobs=1)
    assert [point.val_scores for point in swept.record.points] == scores
    assert swept.found == 2, "plain training of the same rows"


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
@pytest.mark.parametrize("labelled", [20, 0.25])
def test_other_numbers_of_labels_are_those_of_prepare_for_every_task(tmp_path: Path, task: str, labelled: float):
    label = {"classification": "c{0}", "regression": "{0}.5", "multilabel": "c{0};d{1}"}[task]
    rows = [f"text {n},{label.format(n % 4, n % 3) if n % 5 else ''},g{n // 3}" for n in range(150)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label,group", *rows, ""]))
    source = {"family": "text_table", "path": str(tmp_path / "t.csv"), "label_column": "label", "group_column": "group"}
    if task == "multilabel":
        source["label_separator"] = ";"
    settings = PrepareSettings(source=source, task=task, splits=2, val=0.2, test=0.2, labelled=40, seed=3)
    prepare(settings, tmp_path / "data")
    prepare(settings.model_copy(update={"labelled": labelled}), tmp_path / "other")
    found, wanted = open_labelled(tmp_path / "data", labelled), Dataset.open(tmp_path / "other")
    for split in range(2):
        np.testing.assert_array_equal(found.roles(split), wanted.roles(split))
        assert found.split_digest(split) == wanted.split_digest(split)
    copied = pickle.loads(pickle.dumps(found))
    assert copied.split_digest(1) == wanted.split_digest(1)
    with pytest.raises(UserError, match=r"dataset.labelled: 4000 of \d+ rows to choose from is 4,000"):
        open_labelled(tmp_path / "data", 4000)


def test_points_of_automatic_length_are_planned_with_their_steps(project: Path, params: Params):
    over = {"student": "bag", "train.steps": ["auto", 9], "train.transfer_batch_size": [8, 16]}
    mine = with_sweep(params, over, steps=1)
    planner = Planner(mine, Project(project))
    # 150 training rows; with 9 steps, plain training is the same for any transfer batch.
    assert [planned.steps for planned in plan_grids(mine, "mine", planner)] == [375, 200, 9]
