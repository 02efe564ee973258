"""What is not finished is a line with the command to run, and does not stop the rest."""

import json
import re

import pytest

from pipeline.errors import UserError
from pipeline.records import LogRecord, to_json
from pipeline.reporting import Stored
from pipeline.reporting.inputs import read_inputs

from .records import AFT, FEATURES, KD, NONE, REGRESSION, Workspace


@pytest.fixture
def project(tmp_path):
    made = Workspace(tmp_path)
    made.run("none", NONE, methods=[])
    made.run("kd", KD)
    made.run("aft", AFT)
    return made


def read(project, *names, **sections):
    return read_inputs(project.params(*names, **sections), project.project, ())


def names(inputs):
    return [outcome.name for outcome in inputs.outcomes]


def test_with_everything_there_nothing_is_missing(project):
    inputs = read(project)
    assert inputs.missing == ()
    assert names(inputs) == ["none", "kd", "aft"]
    assert [probe.source for probe in inputs.probes] == ["minilm"]
    assert inputs.student_files["aft"] == {"student.json": 26, "weights.safetensors": 1975}


def test_a_run_that_was_never_trained_is_listed(project):
    inputs = read(project, "none", "kd", "aft", "new")
    assert inputs.missing == ("new: not trained; run `aft train new`",)
    assert names(inputs) == ["none", "kd", "aft"]


def test_a_run_that_was_not_evaluated_is_listed(project):
    project.project.evaluation("kd").unlink()
    inputs = read(project)
    assert inputs.missing == ("kd: trained but not evaluated; run `aft evaluate kd`",)
    assert names(inputs) == ["none", "aft"]


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("runs/aft/run.json", "{", "damaged.*run `aft train aft` again"),
        ("runs/aft/run.json", "{}", r"damaged.*\(run: Field required\)"),
        ("runs/aft/curves.csv", "seed,weight\n0,0\n", "damaged.*run `aft train aft` again"),
        ("runs/aft/curves.csv", "seed,weight,step,val_accuracy\n0,3,x,0.5\n", "damaged.*run `aft train aft` again"),
        ("runs/aft/curves.csv", "seed,weight,step,val_accuracy\n0,7,0,0.5\n", "no lines for the chosen weight 3"),
        ("runs/aft/gates.json", "[1]", "damaged.*run `aft train aft` again"),
        (
            "runs/aft/gates.json",
            '{"gates": {"minilm": [[0.5], [0.5, 0.5], [0.5], [0.5], [0.5]]}}',
            "not the same number",
        ),
        ("runs/aft/gates.json", '{"gates": {"minilm": [[0.5]]}}', "not the same number of gates"),
        ("evaluations/aft.json", "", "damaged.*run `aft evaluate aft` again"),
    ],
)
def test_a_damaged_record_is_listed_and_the_other_runs_are_reported(project, path, text, message):
    (project.root / path).write_text(to_json(json.loads(text)) if text.endswith("}") else text)
    inputs = read(project)
    (line,) = inputs.missing
    assert path in line and "\n" not in line
    assert re.search(message, line)
    assert names(inputs) == ["none", "kd"]


def test_missing_curves_are_listed(project):
    (project.project.run("aft") / "curves.csv").unlink()
    inputs = read(project)
    assert inputs.missing[0].endswith("runs/aft/curves.csv: no such file; run `aft train aft`")
    assert names(inputs) == ["none", "kd"]


def test_an_evaluation_of_other_students_is_listed(project):
    project.change("runs/aft/run.json", seeds=[5, 6, 7, 8, 9])
    inputs = read(project)
    assert "of other students than aft has now; run `aft evaluate aft` again" in inputs.missing[0]
    assert names(inputs) == ["none", "kd"]


def test_an_evaluation_of_the_same_seeds_trained_anew_is_listed(project):
    project.change("runs/aft/run.json", files={"students/0/weights.safetensors": "of another training"})
    inputs = read(project)
    assert "of other students than aft has now; run `aft evaluate aft` again" in inputs.missing[0]
    assert names(inputs) == ["none", "kd"]


def test_probes_and_data_that_changed_since_an_evaluation_are_listed(project):
    project.change("evaluations/aft.json", data="of other rows")
    tested, again = "aft: tested with other data", "than there are now; run `aft evaluate aft` again"
    assert read(project).missing == (f"{tested} {again}",)
    project.change("evaluations/aft.json", probes={"minilm": "of other features"})
    assert read(project).missing == (f"{tested}, probes of `minilm` {again}",)


def test_data_features_and_probes_that_changed_since_a_training_are_listed(project):
    again = "than there are now; run `aft train aft` and `aft evaluate aft` again"
    project.change("probes/minilm/pooled/probe.json", files={"0/linear.npy": "of other probes"})
    assert f"aft: trained with other probes of `minilm` {again}" in read(project).missing
    project.change("runs/aft/run.json", data="of other rows", features={"minilm@crops": "of an earlier teacher"})
    store = Stored("minilm", 9000, 1, 384, {"minilm": FEATURES})
    missing = project.inputs(stores=(store,)).missing
    assert f"aft: trained with other data, features of `minilm`, probes of `minilm` {again}" in missing


def test_probes_of_other_features_data_or_another_source_are_refused(project):
    again = "run `aft probe minilm` again"
    path = "probes/minilm/pooled/probe.json"
    store = Stored("minilm", 9000, 1, 384, {"minilm": "of a later teacher"})
    inputs = project.inputs(stores=(store,))
    assert f"{project.root / path}: of other features of `minilm` than there are now; {again}" in inputs.missing
    assert inputs.probes == ()
    project.change(path, data="of other rows")
    inputs = read(project)
    assert f"{project.root / path}: of other data than there are now; {again}" in inputs.missing
    assert inputs.probes == ()
    project.change(path, source="mpnet")
    assert f"{project.root / path}: belongs to `mpnet`; {again}" in read(project).missing


@pytest.mark.parametrize(("path", "stage"), [("runs/aft/run.json", "train"), ("evaluations/aft.json", "evaluate")])
def test_the_record_of_another_run_is_refused(project, path, stage):
    project.change(path, run="kd")
    inputs = read(project)
    assert inputs.missing == (f"{project.root / path}: belongs to `kd`; run `aft {stage} aft` again",)
    assert names(inputs) == ["none", "kd"]


def test_a_chosen_weight_that_was_no_candidate_is_refused(project):
    project.change("runs/aft/run.json", chosen=[5.0])
    assert "not among the candidates" in read(project).missing[0]


def test_a_candidate_that_diverged_has_no_scores_and_cannot_be_the_choice(project):
    project.run("aft", AFT, weights=(0.0, 3.0), chosen=0.0)
    candidates = project.read("runs/aft/run.json")["candidates"]
    candidates[1]["val_scores"][2] = None
    project.change("runs/aft/run.json", candidates=candidates)
    kept, lost = read(project, "aft").outcomes[0].run.candidates
    assert len(kept.finite) == 5 and lost.finite == ()
    project.change("runs/aft/run.json", chosen=[3.0])
    assert "or diverged" in read(project).missing[0]


def test_a_candidate_that_was_dropped_cannot_be_the_choice_and_no_other_may_lack_a_seed(project):
    project.run("aft", AFT, weights=(0.0, 3.0), chosen=0.0)
    candidates = project.read("runs/aft/run.json")["candidates"]
    candidates[1]["val_scores"].pop()
    project.change("runs/aft/run.json", candidates=candidates)
    assert "lacks the score of a seed" in read(project).missing[0]
    candidates[1]["dropped"] = True
    project.change("runs/aft/run.json", candidates=candidates)
    assert read(project).missing == ()
    project.change("runs/aft/run.json", chosen=[3.0])
    assert "or were dropped" in read(project).missing[0]


def test_seeds_that_were_changed_since_training_are_listed_and_the_run_is_shown(project):
    inputs = read(project, train={"seeds": [0, 1, 2, 3, 4, 5]})
    assert inputs.missing == tuple(
        f"{name}: trained on seeds 0, 1, 2, 3, 4 instead of 0, 1, 2, 3, 4, 5; run `aft train {name}`"
        for name in ("none", "kd", "aft")
    )
    assert names(inputs) == ["none", "kd", "aft"]
    own = project.params(train={"seeds": [7]})
    own.values["runs"]["kd"] = {"train": {"seeds": [0, 1, 2, 3, 4]}}
    assert not any(line.startswith("kd") for line in read_inputs(own, project.project, ()).missing)


def test_a_primary_score_that_is_not_finite_is_a_diverged_run(project):
    evaluation = project.read("evaluations/aft.json")
    evaluation["results"][2]["scores"]["accuracy"] = None
    project.write("evaluations/aft.json", evaluation)
    inputs = read(project)
    assert "no finite accuracy on seed 2, so its training diverged" in inputs.missing[0]
    assert names(inputs) == ["none", "kd"]


def test_runs_of_another_task_are_listed(project):
    project.metrics = REGRESSION
    project.run("other", AFT)
    inputs = read(project)
    assert inputs.missing == ("other: evaluated by other metrics than none; run `aft evaluate other`",)


def test_a_missing_probe_or_manifest_does_not_stop_the_report(project):
    (project.root / "probes/minilm/pooled/probe.json").unlink()
    (project.root / "data/manifest.json").unlink()
    inputs = read(project)
    assert [line.partition("; ")[2] for line in inputs.missing] == ["run `aft prepare`", "run `aft probe minilm`"]
    assert (inputs.probes, inputs.manifest) == ((), None)
    assert project.report("none", "aft").page.is_file()


def test_every_source_of_the_runs_has_its_probe(project):
    project.probe("minilm/layer:4")
    project.run("layer", AFT, teachers=("minilm", "minilm/layer:4"))
    (project.root / "probes/minilm/layer-4/probe.json").unlink()
    assert "probes/minilm/layer-4/probe.json: no such file; run `aft probe minilm`" in read(project).missing[0]
    project.probe("minilm/layer:4")
    inputs = read(project)
    assert inputs.missing == ()
    assert [probe.source for probe in inputs.probes] == ["minilm", "minilm/layer:4"]
    assert inputs.teachers == ["minilm"]


def test_logs_may_be_missing_and_a_damaged_one_is_listed(project):
    project.project.log("train", "kd").unlink()
    inputs = read(project)
    assert inputs.missing == ()
    assert [outcome.log is None for outcome in inputs.outcomes] == [False, True, False]
    project.project.log("train", "aft").write_text("{}")
    (line,) = read(project).missing
    assert "logs/aft.train.json: damaged" in line


def test_logs_are_those_of_the_stages(project):
    logs = read(project).logs
    assert logs["extract", "minilm"] == LogRecord(seconds=60.0, rows=9000, device="cpu")
    assert {stage for stage, _ in logs} == {"extract", "probe", "train", "evaluate"}


def test_with_no_finished_run_there_is_one_line(project):
    with pytest.raises(UserError, match=r"no run is finished, so .*\(new: not trained; run `aft train new`\)") as error:
        read(project, "new", "newer")
    assert "\n" not in str(error.value)
