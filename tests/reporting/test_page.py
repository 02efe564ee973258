"""The report as a whole: its files, what they may refer to, and what it does where something is missing."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.reporting import Stored

from .html import T95, error_of, mean, page_of
from .records import AFT, KD, NONE, REGRESSION, Workspace, demo

RUNS = ["none", "kd", "logit_kd", "aft", "aft_task", "aft_shuffled"]
STORES = (Stored("minilm", rows=9000, bytes=7_004_160, width=384),)
SETTINGS = {"dataset": {"source": {"family": "tweets"}}, "train": {"steps": 1000}}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def made(project):
    return project.report(stores=STORES, **SETTINGS)


@pytest.fixture(scope="module")
def html(made):
    return made.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(made):
    return page_of(made)


@pytest.fixture
def small(tmp_path):
    return Workspace(tmp_path)


def scores(project, name):
    return [result["scores"]["accuracy"] for result in project.read(f"evaluations/{name}.json")["results"]]


def test_the_metrics_file_holds_the_statistics_of_the_records(project, made):
    metrics = json.loads((project.root / "report/metrics.json").read_text())
    assert metrics == made.metrics
    assert list(metrics) == RUNS
    for name in RUNS[1:]:
        accuracies = scores(project, name)
        differences = [x - y for x, y in zip(accuracies, scores(project, "none"), strict=True)]
        assert metrics[name]["accuracy"] == pytest.approx(mean(accuracies))
        assert metrics[name]["standard_error"] == pytest.approx(error_of(accuracies))
        assert metrics[name]["macro_f1"] == pytest.approx(mean(accuracies) - 0.02)
        assert metrics[name]["log_loss"] == pytest.approx(0.8)
        assert metrics[name]["difference"] == pytest.approx(mean(differences))
        assert metrics[name]["low"] == pytest.approx(mean(differences) - T95 * error_of(differences), abs=1e-7)
        assert metrics[name]["high"] == pytest.approx(mean(differences) + T95 * error_of(differences), abs=1e-7)
        assert metrics[name]["seconds"] == 31.2
    assert metrics["kd"]["weight"] == "1"
    assert [metrics["none"][key] for key in ("difference", "low", "high", "gap_closed")] == [None] * 4


def test_the_keys_of_the_metrics_file_are_those_of_the_task(tmp_path, made):
    rest = ["difference", "low", "high", "gap_closed", "weight", "seconds"]
    assert list(made.metrics["kd"]) == ["accuracy", "standard_error", "macro_f1", "log_loss", *rest]
    project = Workspace(tmp_path, REGRESSION)
    project.run("none", NONE, methods=[])
    assert list(project.report().metrics["none"]) == ["rmse", "standard_error", "r2", *rest]


def test_the_curves_file_is_the_mean_over_seeds_at_the_chosen_weight(project, made):
    with (project.root / "report/curves.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert list(dict.fromkeys(line["run"] for line in lines)) == RUNS
    with (project.root / "runs/kd/curves.csv").open() as file:
        raw = [row for row in csv.DictReader(file) if row["weight"] == "1"]
    for line in (line for line in lines if line["run"] == "kd"):
        values = [float(row["val_accuracy"]) for row in raw if row["step"] == line["step"]]
        assert float(line["val_score"]) == pytest.approx(mean(values))
        assert float(line["standard_error"]) == pytest.approx(error_of(values))


def test_the_page_refers_to_nothing_outside_itself(html, page):
    assert "script" not in page.tags
    assert not re.search(r"https?:|//[a-z]|@import", html)
    assert [r for r in page.references if not r.startswith("#") and r != "data:,"] == []
    inside = [r.removeprefix("#") for r in page.references if r.startswith("#")]
    urls = re.findall(r"url\(([^)]*)\)", html)
    assert inside and urls
    assert {*inside, *(url.removeprefix("#") for url in urls)} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_tells_the_browser_to_load_nothing(html):
    assert "Content-Security-Policy\" content=\"default-src 'none';" in html


def test_colours_follow_the_readers_light_or_dark(html):
    drawn = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    # Differences wide and narrow, learning curves, searches, gates.
    assert len(drawn) == 2 + 6 + 5 + 3
    for svg in drawn:
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) <= {
            "none", *(f"var(--{name})" for name in ("ink", "soft", "hair", "accent", "reference"))
        }  # fmt: skip


def test_two_processes_write_equal_bytes(tmp_path):
    root = demo(tmp_path).root
    (root / "params.yaml").write_text(json.dumps({"runs": {name: {} for name in RUNS}, **SETTINGS}))
    code = (
        "from pathlib import Path; from pipeline.params import Params; from pipeline.reporting import report; "
        "report(Params.load(Path('params.yaml')))"
    )
    found = []
    for seed in ("1", "2"):
        # Another hash seed gives sets and dictionaries of objects another order.
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, check=True, capture_output=True)
        found.append([(root / "report" / name).read_bytes() for name in ("index.html", "metrics.json", "curves.csv")])
    assert found[0] == found[1]
    assert b"<svg" in found[0][0]


def test_the_summary_is_on_the_page_and_in_the_result(made, page):
    assert len(made.summary) == len(RUNS)
    for line in made.summary[1:]:
        assert line in page.told
    assert str(made).splitlines() == [*made.summary, f"report: {made.page}"]


def test_what_is_missing_is_on_the_page_and_in_the_result(small):
    small.run("none", NONE, methods=[])
    small.run("aft", AFT)
    made = small.report("none", "aft", "later")
    assert made.missing == ["later: not trained; run `aft train later`"]
    assert made.missing[0] in page_of(made).told
    assert list(made.metrics) == ["none", "aft"]
    assert str(made).startswith("missing: later: not trained")
    assert "Missing or outdated" not in page_of(small.report("none", "aft")).told


def test_a_collapsed_model_is_a_warning(small):
    small.run("none", NONE, methods=[])
    small.run("aft", AFT, collapsed=(1, 3))
    made = small.report()
    assert made.warnings[0].startswith("aft: the student predicts the same for every row on seeds 1 and 3.")
    assert made.warnings[0] in page_of(made).told
    assert str(made).startswith("warning: aft")


def test_only_the_runs_of_the_settings_are_reported_in_their_order(small):
    small.run("gone", KD)
    small.run("none", NONE, methods=[])
    small.run("aft", AFT)
    assert list(small.report("none").metrics) == ["none"]
    assert list(small.report("aft", "none", "gone").metrics) == ["none", "aft", "gone"]


def test_two_students_are_compared_each_with_its_own_baseline(small):
    small.run("none", NONE, methods=[])
    small.run("kd", KD)
    small.run("plain_cnn", [x + 0.2 for x in NONE], methods=[], student="cnn")
    small.run("aft_cnn", [x + 0.2 for x in AFT], student="cnn", gates={"minilm": 8})
    made = small.report()
    page = page_of(made)
    assert made.metrics["aft_cnn"]["difference"] == pytest.approx(mean(AFT) - mean(NONE))
    for title in ("Results of bag", "Results of cnn", "Runs of cnn", "Learning curves of bag"):
        assert title in page.told
    assert len(page.ids) == len(set(page.ids))


def test_the_title_and_subtitle_name_students_teachers_and_data(page, small):
    assert page.told.startswith("bag, taught by minilm Transfer report")
    assert "tweets, 3 classes, 400 labelled and 5,200 unlabelled training rows, 5 seeds" in page.told
    small.run("none", NONE[:1], methods=[])
    told = page_of(small.report()).told
    assert told.startswith("bag, plain training")
    assert "training rows, 1 seed" in told


def test_a_student_that_is_solved_for_has_no_teacher_in_the_title_and_no_curve(small):
    small.run("none", NONE, methods=[])
    small.run("aft", AFT)
    small.run("tfidf", KD, methods=[], student="tfidf")
    record = small.read("runs/tfidf/run.json")
    tried = [
        {"weights": [], "settings": {"student.strength": 1.0}, "val_scores": KD[:2], "dropped": True},
        {"weights": [], "settings": {"student.strength": 10.0}, "val_scores": KD},
    ]
    small.change(
        "runs/tfidf/run.json",
        student=record["student"] | {"solved": True},
        candidates=tried,
        chosen_settings={"student.strength": 10.0},
    )
    curves = small.root / "runs" / "tfidf" / "curves.csv"
    curves.write_text(curves.read_text().replace(",none,", ',"none, strength 10.0",'))
    told = page_of(small.report()).told
    assert told.startswith("bag, taught by minilm Transfer report")
    assert "Results of tfidf" in told and "Learning curves of bag" in told
    assert "Learning curves of tfidf" not in told
    assert "and not compared: strength 1.0 (2 seeds)" in told


def test_a_task_without_classes_has_no_word_of_accuracy(tmp_path):
    project = Workspace(tmp_path, REGRESSION)
    manifest = project.read("data/manifest.json")
    project.write("data/manifest.json", {k: v for k, v in manifest.items() if k not in ("classes", "rows_of_class")})
    project.run("none", [2.0, 2.1, 1.9, 2.05, 2.0], methods=[], share=None)
    project.run("aft", [1.5, 1.7, 1.4, 1.6, 1.5], probe=1.2, share=None)
    page = page_of(project.report(stores=STORES))
    assert not re.search(r"accura|class|%,|points", page.told)
    assert "Plain training of bag has a test RMSE of 2.01 kWh on 3,000 rows" in page.told
    assert "test RMSE minus that of plain training, kWh (lower is better)" in page.told


def test_names_are_never_taken_for_markup_or_mathematics(small):
    name = "<b>$x_1$&\"'"
    small.run("none", NONE, methods=[])
    small.run(name, AFT)
    made = small.report()
    page = page_of(made)
    assert name in page.rows
    assert "<b>$" not in made.page.read_text()
    assert page.text.count(name) >= 4


def test_an_old_report_is_replaced_and_not_written_into(small):
    small.run("none", NONE, methods=[])
    small.report()
    old = (small.root / "report/metrics.json").read_text()
    os.link(small.root / "report/metrics.json", small.root / "cached.json")
    small.run("none", AFT, methods=[])
    small.report()
    assert (small.root / "cached.json").read_text() == old
    assert (small.root / "report/metrics.json").read_text() != old


def test_the_old_report_survives_where_no_run_is_finished(small):
    small.run("none", NONE, methods=[])
    made = small.report()
    before = made.page.read_bytes()
    (small.root / "evaluations/none.json").unlink()
    with pytest.raises(UserError, match="no run is finished"):
        small.report()
    assert made.page.read_bytes() == before
