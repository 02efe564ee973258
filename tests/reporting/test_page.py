"""The report against its inputs: every number follows from the records by plain loops."""

import csv
import json
import math
import os
import re
from html.parser import HTMLParser

import pytest

from pipeline.errors import UserError
from pipeline.functional.statistics import paired
from pipeline.params import Params
from pipeline.reporting.page import Stored, report

from .records import AFT, KD, NONE, Project, demo

T95 = 2.776445
"""The two-sided 95 % point of Student's t with 4 degrees of freedom."""

RUNS = ["none", "kd", "logit_kd", "aft", "aft_task", "aft_shuffled"]
STORES = [Stored("minilm", rows=9000, bytes=7_004_160, seconds=60.0, width=384)]


class Page(HTMLParser):
    """What a browser would find: tables by their rows, text, ids, and everything that refers to something."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.text, self.ids, self.references, self.tags = {}, "", [], [], []
        self.styles, self._row, self._cell, self._style = "", None, False, False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            elif name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster", "background", "cite"):
                self.references.append(value)
            elif name == "style" or "url(" in (value or ""):
                self.styles += value + ";"
        if tag == "tr":
            self._row = dict(attributes).get("data-run")
            self.rows.setdefault(self._row, [])
        elif tag == "td":
            self._cell = True
            self.rows[self._row].append("")
        self._style = tag == "style"

    def handle_endtag(self, tag):
        if tag == "td":
            self._cell = False
        self._style = False

    def handle_data(self, data):
        if self._style:
            self.styles += data
        else:
            self.text += data
        if self._cell:
            self.rows[self._row][-1] += data


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def made(project):
    params = Params({"dataset": {"source": {"family": "tweets"}}, "train": {"steps": 1000}})
    return report(project.root, project.root / "report", runs=RUNS, stores=STORES, params=params)


@pytest.fixture(scope="module")
def html(made):
    return made.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture
def small(tmp_path):
    return Project(tmp_path)


def show(project, **options):
    made = report(project.root, project.root / "report", **options)
    return made, Page(made.page.read_text(encoding="utf-8"))


def mean(values):
    return sum(values) / len(values)


def error_of(values):
    return math.sqrt(sum((x - mean(values)) ** 2 for x in values) / (len(values) - 1) / len(values))


def points(value):
    return float(value.replace("\N{MINUS SIGN}", "-").replace("±", ""))


def scores(project, name):
    evaluation = project.read(f"evaluations/{name}.json")
    return [result["accuracy"] for result in evaluation["results"]]


@pytest.mark.parametrize("name", ["kd", "logit_kd", "aft_task", "aft_shuffled"])
def test_the_table_holds_the_statistics_of_the_records(project, page, name):
    accuracies, plain = scores(project, name), scores(project, "none")
    differences = [x - y for x, y in zip(accuracies, plain, strict=True)]
    probe = [score["accuracy"] for score in project.read(f"evaluations/{name}.json")["probe"]]
    row = page.rows[name]
    low, high = (mean(differences) + sign * T95 * error_of(differences) for sign in (-1, 1))
    assert points(row[1]) == pytest.approx(100 * mean(accuracies), abs=0.0051)
    assert points(row[2]) == pytest.approx(100 * error_of(accuracies), abs=0.0051)
    assert points(row[3]) == pytest.approx(100 * mean(differences), abs=0.0051)
    assert [points(x) for x in row[4].split(" to ")] == pytest.approx([100 * low, 100 * high], abs=0.0051)
    assert row[5] == f"{sum(x > 0 for x in differences)} of 5"
    gap = mean(probe) - mean(plain)
    assert points(row[7]) == pytest.approx(100 * mean(differences) / gap, abs=0.51)


def test_the_probe_stands_in_the_table(project, page):
    probe = [score["accuracy"] for score in project.read("evaluations/aft.json")["probe"]]
    row = page.rows["probe of minilm"]
    assert points(row[1]) == pytest.approx(100 * mean(probe), abs=0.0051)
    assert points(row[3]) == pytest.approx(100 * (mean(probe) - mean(NONE)), abs=0.0051)


def test_the_metrics_file_holds_the_statistics_of_the_records(project, made):
    metrics = json.loads((project.root / "report/metrics.json").read_text())
    assert metrics == made.metrics
    assert list(metrics) == RUNS
    for name in RUNS[1:]:
        accuracies = scores(project, name)
        differences = [x - y for x, y in zip(accuracies, scores(project, "none"), strict=True)]
        assert metrics[name]["accuracy"] == pytest.approx(mean(accuracies))
        assert metrics[name]["standard_error"] == pytest.approx(error_of(accuracies))
        assert metrics[name]["difference"] == pytest.approx(mean(differences))
        assert metrics[name]["low"] == pytest.approx(mean(differences) - T95 * error_of(differences), abs=1e-7)
        assert metrics[name]["high"] == pytest.approx(mean(differences) + T95 * error_of(differences), abs=1e-7)
        assert metrics[name]["seconds"] == 31.2
    assert metrics["kd"]["weight"] == "1"
    assert [metrics["none"][key] for key in ("difference", "low", "high", "gap_closed")] == [None] * 4


def test_the_curves_file_is_the_mean_over_seeds_at_the_chosen_weight(project, made):
    with (project.root / "report/curves.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert list(dict.fromkeys(line["run"] for line in lines)) == RUNS
    with (project.root / "runs/kd/curves.csv").open() as file:
        raw = [row for row in csv.DictReader(file) if row["weight"] == "1"]
    for line in (line for line in lines if line["run"] == "kd"):
        values = [float(row["val_accuracy"]) for row in raw if row["step"] == line["step"]]
        assert float(line["val_accuracy"]) == pytest.approx(mean(values))
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
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) == 2 + 6 + 5 + 3  # differences wide and narrow, curves, weight searches, gates
    for drawing in drawings:
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)) <= {
            "none", *(f"var(--{name})" for name in ("ink", "soft", "hair", "accent", "reference"))
        }  # fmt: skip


def test_equal_inputs_give_equal_bytes(project, made, tmp_path):
    params = Params({"dataset": {"source": {"family": "tweets"}}, "train": {"steps": 1000}})
    report(project.root, tmp_path, runs=RUNS, stores=STORES, params=params)
    for name in ("index.html", "metrics.json", "curves.csv"):
        assert (tmp_path / name).read_bytes() == (project.root / "report" / name).read_bytes()


def test_the_summary_is_on_the_page_and_in_the_result(made, page):
    told = " ".join(page.text.split())
    assert len(made.summary) == len(RUNS)
    for line in made.summary[1:]:
        assert line in told


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("kd", "inside the noise: +0.24 points against plain training (95% interval"),
        ("aft", "aft: stood aside: validation chose weight 0"),
        (
            "aft_task",
            "aft_task: +2.48 points against plain training (95% interval 2.07 to 2.89; better on 5 of 5 seeds)",
        ),
        ("aft_shuffled", "aft_shuffled: a control"),
        ("aft_shuffled", "As expected, it does not gain."),
    ],
)
def test_the_words_follow_the_numbers(made, run, words):
    line = next(line for line in made.summary if line.startswith(f"{run}:"))
    assert words in line.replace("\N{MINUS SIGN}", "-")


def test_the_first_paragraph_counts_the_runs_by_how_they_fared(page):
    told = " ".join(page.text.split())
    assert "Plain training of bag gets 65.38% of 3,000 test rows right (standard error 0.24, 5 seeds)" in told
    assert (
        "Of 4 runs with a method, 2 are above it by more than the noise, 1 is inside the noise and 1 stood aside."
        in told
    )


def test_the_page_says_what_limits_its_intervals(page):
    told = " ".join(page.text.split())
    assert "the seeds are not fully independent" in told
    assert "adjusted after Holm for the 4 comparisons on this page" in told


def test_time_and_bytes_are_those_of_the_stages(page):
    told = " ".join(page.text.split())
    assert "9,000 rows of 384 features" in told
    assert "150 rows/s" in told
    assert "778 bytes a row" in told
    seconds = 60.0 + 1.2 + 6 * 31.2 + 6 * 2.1
    assert f"All stages shown took {int(seconds // 60)} min {round(seconds % 60):02d} s." in told


def test_data_and_provenance_are_told(page):
    told = " ".join(page.text.split())
    assert "9,000 in 3 classes" in told
    assert "twin: 1,204; twins disagree about the label: 310." in told
    assert "unreadable" not in told
    assert "f" * 40 in told
    assert "torch 2.14.0" in told
    assert "steps: 1000" in told


def test_every_method_of_a_run_is_shown_beside_its_own_chance_level(small):
    small.run("both", AFT, weights=(0.0, 3.0), methods=["aft", "kd"], teachers=("minilm",))
    levels = {"aft": {"end": 0.21, "chance": 0.35}, "kd": {"end": 0.9, "chance": 0.95}}
    small.change("runs/both/run.json", guards=[
        guard | {"penalties": levels} for guard in small.read("runs/both/run.json")["guards"]
    ])  # fmt: skip
    text = " ".join(show(small)[1].text.split())
    assert "aft 0.21; kd 0.9" in text
    assert "aft 0.21; kd 0.9 0.35; 0.95" in text


def test_what_was_searched_beside_weights_is_told(small):
    small.run("tuned", AFT, weights=(0.0, 3.0), methods=["aft"], teachers=("minilm",))
    record = small.read("runs/tuned/run.json")
    tried = [c | {"settings": {"student.dropout": d}} for c in record["candidates"] for d in (0.2, 0.5)]
    small.change("runs/tuned/run.json", candidates=tried, chosen_settings={"student.dropout": 0.5})
    with pytest.raises(UserError, match=r"no lines for the chosen weight 3, dropout 0\.5"):
        show(small)
    curves = small.root / "runs" / "tuned" / "curves.csv"
    curves.write_text(re.sub(r"^(\d+),3,", r'\1,"3, dropout 0.5",', curves.read_text(), flags=re.M))
    text = " ".join(show(small)[1].text.split())
    for told in ("3, dropout 0.5", "0, 3; dropout 0.2, 0.5"):
        assert told in text
    drawings = re.findall(r"<svg.*?</svg>", show(small)[0].page.read_text(), flags=re.S)
    assert sum(all(f">{line}</text>" in svg for line in ("dropout 0.2", "dropout 0.5")) for svg in drawings) == 1


def test_settings_of_a_method_have_a_line_each_that_starts_at_weight_0(small):
    small.run("tuned", AFT, weights=(0.0, 3.0, 7.0), chosen=7.0, methods=["aft"], teachers=("minilm",))
    plain, one, other = small.read("runs/tuned/run.json")["candidates"]
    tried = [plain, *(c | {"settings": {"methods.aft.queue": q}} for c, q in ((one, 0), (other, 64)))]
    small.change("runs/tuned/run.json", candidates=tried, chosen_settings={"methods.aft.queue": 64})
    curves = small.root / "runs" / "tuned" / "curves.csv"
    curves.write_text(re.sub(r"^(\d+),7,", r'\1,"7, aft.queue 64",', curves.read_text(), flags=re.M))
    made, page = show(small)
    text = " ".join(page.text.split())
    assert "0, 3, 7; aft.queue 0, 64" in text
    assert "7 is the largest weight tried for aft" in text
    drawings = re.findall(r"<svg.*?</svg>", made.page.read_text(), flags=re.S)
    assert sum(all(f">queue {queue}</text>" in svg for queue in (0, 64)) for svg in drawings) == 1
    # Weight 0 is not the largest of those tried with the settings that it does not have.
    small.change("runs/tuned/run.json", chosen=[0.0], chosen_settings={})
    curves.write_text(re.sub(r'^(\d+),"7, aft.queue 64",', r"\1,0,", curves.read_text(), flags=re.M))
    assert "largest weight tried" not in show(small)[1].text


def test_candidates_that_diverged_are_told(small):
    small.run("wild", AFT, weights=(0.0, 3.0, 1e9), chosen=3.0, methods=["aft"], teachers=("minilm",))
    assert "iverged" not in show(small)[1].text
    candidates = small.read("runs/wild/run.json")["candidates"]
    candidates[2]["val_accuracy"] = [None] * len(AFT)
    small.change("runs/wild/run.json", candidates=candidates)
    text = " ".join(show(small)[1].text.split())
    assert "0, 3, 1e+09; diverged: 1e+09" in text
    assert "Diverged, on one seed or more, and could not be chosen: 1e+09." in text


def test_what_a_run_is_is_told(small):
    small.run("both", AFT, weights=(0.0, 3.0), methods=["aft", "kd"], teachers=("minilm",), shuffled=True)
    settings = [{"name": "aft", "settings": {"task_directions": True, "scaling": "whitened"}}, {"name": "kd"}]
    small.change("runs/both/run.json", methods=settings)
    text = " ".join(show(small)[1].text.split())
    for told in ("aft (task_directions True, scaling whitened); kd", "minilm, rows shuffled", "0+0, 3+3"):
        assert told in text
    assert "bag, of the family bag_of_words, has 612,345 parameters and features of width 64" in text


def test_runs_of_two_commits_are_remarked(small):
    small.run("none", NONE, methods=[])
    small.run("kd", KD)
    assert "do not stem from one commit" not in show(small)[1].text
    small.change("runs/kd/run.json", provenance={"commit": "a" * 40, "changed": True, "device": "cuda"})
    text = show(small)[1].text
    assert "do not stem from one commit" in text
    assert "a" * 40 + ", with uncommitted changes" in text


def test_a_gain_that_the_number_of_comparisons_explains_says_so(small):
    small.run("none", NONE, methods=[])
    for k in range(5):
        small.run(f"try{k}", [x + d for x, d in zip(NONE, (0.002, 0.010, 0.004, 0.008, 0.001), strict=True)])
    made, _ = show(small)
    assert made.metrics["try0"]["low"] > 0
    alone = paired([0.002, 0.010, 0.004, 0.008, 0.001]).p
    assert f"Less sure than it looks: p = {5 * alone:.2f} once all" in made.summary[1]


def test_a_control_that_gains_is_an_alarm_about_the_methods(small):
    small.run("none", NONE, methods=[])
    small.run("shuffled", AFT, shuffled=True)
    assert "It ought not to gain" in show(small)[0].summary[1]


def test_one_seed_gives_no_interval_and_says_so(small):
    small.run("none", NONE[:1], methods=[])
    small.run("aft", AFT[:1], gates={"minilm": 8})
    made, page = show(small)
    assert made.summary[1] == (
        "aft: +2.50 points against plain training on the one seed there is, from which nothing follows: run more seeds."
    )
    assert (made.metrics["aft"]["low"], made.metrics["aft"]["standard_error"]) == (None, None)
    assert "The one run with a method has one seed only, from which nothing follows." in page.text
    assert "±" not in page.rows["aft"][2]


def test_a_student_of_features_is_never_called_plain_training(small):
    small.run("none", [x - 0.3 for x in NONE], methods=[])
    small.run("probe", AFT, methods=[], student="head", reads="features")
    made, page = show(small)
    told = " ".join(page.text.split())
    assert any(line.startswith("probe: +32.48 points against plain training") for line in made.summary)
    assert "Plain training of bag gets 35.38% of 3,000 test rows right" in told
    assert "The one run of head is above it by more than the noise." in told
    assert "plain training of head" not in told.lower()
    assert page.rows["probe"][3] == "+32.48"


def test_a_student_of_features_alone_says_what_to_add(small):
    small.run("probe", AFT, methods=[], student="head", reads="features")
    made, page = show(small)
    assert made.summary == ["probe: 67.86% of the test rows right, with nothing to compare it with."]
    assert "Add a run of another student, on the same seeds, with `methods: []`" in page.text


def test_a_gap_inside_the_noise_has_no_interval(small):
    small.run("none", NONE, methods=[])
    small.run("aft", AFT, probe=0.655)
    assert "the interval is unbounded" in show(small)[0].summary[1]


def test_a_probe_below_plain_training_leaves_no_gap(small):
    small.run("none", NONE, methods=[])
    small.run("aft", AFT, probe=0.5)
    made, page = show(small)
    assert "there is no gap" in made.summary[1]
    assert made.metrics["aft"]["gap_closed"] is None
    assert page.rows["aft"][7] == "—"


def test_a_model_of_one_class_is_shouted_about(small):
    small.run("none", NONE, methods=[])
    small.run("aft", AFT, one_class=(1, 3))
    made, page = show(small)
    assert made.warnings[0].startswith("aft: the student predicts one class only (seed 1, 3).")
    assert made.warnings[0] in page.text
    assert "2 of 5 seeds" in page.text
    assert str(made).startswith("warning: aft")


def test_without_plain_training_the_page_says_what_is_missing(small):
    small.run("aft", AFT)
    made, page = show(small)
    assert "Add a run with `methods: []`" in page.text
    assert "nothing to compare it with" in made.summary[0]
    assert made.metrics["aft"]["difference"] is None


def test_two_students_are_compared_each_with_its_own_baseline(small):
    small.run("none", NONE, methods=[])
    small.run("kd", KD)
    small.run("plain_cnn", [x + 0.2 for x in NONE], methods=[], student="cnn")
    small.run("aft_cnn", [x + 0.2 for x in AFT], student="cnn")
    made, page = show(small)
    assert made.metrics["aft_cnn"]["difference"] == pytest.approx(mean(AFT) - mean(NONE))
    assert "Results of bag" in page.text
    assert "Results of cnn" in page.text
    assert len(page.ids) == len(set(page.ids))


def test_only_the_named_runs_are_reported(small):
    small.run("none", NONE, methods=[])
    small.run("gone", KD)
    assert list(report(small.root, small.root / "report", runs=["none"]).metrics) == ["none"]
    assert list(report(small.root, small.root / "report").metrics) == ["none", "gone"]


def test_a_weight_at_the_end_of_the_search_and_a_search_without_zero_are_remarked(page):
    told = " ".join(page.text.split())
    assert "10 is the largest weight tried for aft; a larger one may do better." in told
    assert "0 was not among the weights, so aft could not stand aside." in told
    assert "3 is the largest weight tried for logit_kd" in told
    assert "weight tried for kd" not in told


def test_seeds_that_agree_on_the_gates_are_told_from_those_that_do_not(small):
    small.run("aft", AFT)
    same = [[0.1 * k + 0.01 * seed for k in range(8)] for seed in range(5)]
    small.write("runs/aft/gates.json", {"minilm": same, "flat": [[0.5] * 8] * 5})
    text = show(small)[1].text
    assert "Rank correlation between seeds: 1.00." in text
    assert "In some seed all gates are equal." in text


def test_names_are_never_taken_for_markup_or_mathematics(small):
    name = "<b>$x_1$&\"'"
    small.run("none", NONE, methods=[])
    small.run(name, AFT)
    made, page = show(small)
    assert name in page.rows
    assert "<b>$" not in made.page.read_text()
    assert page.text.count(name) >= 4


def test_a_log_loss_that_is_not_finite_is_a_dash_and_null(small):
    small.run("none", NONE, methods=[])
    evaluation = small.read("evaluations/none.json")
    evaluation["results"][2]["log_loss"] = math.nan
    small.write("evaluations/none.json", evaluation)
    made, page = show(small)
    assert made.metrics["none"]["log_loss"] is None
    assert page.rows["none"][-2] == "—"
    assert "NaN" not in (small.root / "report/metrics.json").read_text()


def test_an_old_report_is_replaced_and_not_written_into(small):
    small.run("none", NONE, methods=[])
    show(small)
    old = (small.root / "report/metrics.json").read_text()
    os.link(small.root / "report/metrics.json", small.root / "cached.json")
    small.run("none", AFT, methods=[])
    show(small)
    assert (small.root / "cached.json").read_text() == old
    assert (small.root / "report/metrics.json").read_text() != old


@pytest.mark.parametrize(
    ("path", "command"),
    [("probes/minilm.json", "aft probe minilm"), ("data/manifest.json", "aft prepare")],
)
def test_a_missing_record_is_named_with_the_command_that_makes_it(small, path, command):
    small.run("aft", AFT)
    (small.root / path).unlink()
    with pytest.raises(UserError, match=f"{path}: no such file; run `{command}`"):
        show(small)


def test_no_runs_at_all_is_told(small):
    with pytest.raises(UserError, match="there are no runs to report; run `aft train"):
        show(small)


def test_what_is_there_survives_a_report_that_fails(small):
    small.run("none", NONE, methods=[])
    made, _ = show(small)
    before = made.page.read_bytes()
    (small.root / "evaluations/none.json").unlink()
    with pytest.raises(UserError):
        show(small)
    assert made.page.read_bytes() == before
