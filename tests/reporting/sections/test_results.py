"""The table of results against the records, by plain loops."""

import pytest

from ..html import T95, error_of, mean, page_of, points
from ..records import AFT, KD, NONE, REGRESSION, Workspace, demo


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def page(project):
    return page_of(project.report())


def scores(project, name):
    return [result["scores"]["accuracy"] for result in project.read(f"evaluations/{name}.json")["results"]]


def probe_scores(project, name):
    return [result["scores"]["accuracy"] for result in project.read(f"evaluations/{name}.json")["probe"]]


@pytest.mark.parametrize("name", ["kd", "logit_kd", "aft_task", "aft_shuffled"])
def test_the_table_holds_the_statistics_of_the_records(project, page, name):
    accuracies, plain = scores(project, name), scores(project, "none")
    differences = [x - y for x, y in zip(accuracies, plain, strict=True)]
    row = page.rows[name]
    low, high = (mean(differences) + sign * T95 * error_of(differences) for sign in (-1, 1))
    assert points(row[1]) == pytest.approx(100 * mean(accuracies), abs=0.0051)
    assert points(row[2]) == pytest.approx(100 * error_of(accuracies), abs=0.0051)
    assert points(row[3]) == pytest.approx(100 * mean(differences), abs=0.0051)
    assert [points(x) for x in row[4].split(" to ")] == pytest.approx([100 * low, 100 * high], abs=0.0051)
    assert row[5] == f"{sum(x > 0 for x in differences)} of 5"
    gap = mean(probe_scores(project, name)) - mean(plain)
    assert points(row[7]) == pytest.approx(100 * mean(differences) / gap, abs=0.51)
    assert points(row[10]) == pytest.approx(100 * mean(accuracies) - 2, abs=0.0051)
    assert row[11:] == ["0.8", "31 s"]


def test_the_linear_probe_is_in_the_table(project, page):
    row = page.rows["linear probe of minilm"]
    assert points(row[1]) == pytest.approx(100 * mean(probe_scores(project, "aft")), abs=0.0051)
    assert points(row[3]) == pytest.approx(100 * (mean(probe_scores(project, "aft")) - mean(NONE)), abs=0.0051)


def test_a_run_equal_to_plain_training_is_not_tested(page):
    assert page.rows["aft"][3:7] == ["0.00", "the same students", "—", "—"]
    assert page.classes["none"] == "baseline"
    assert page.classes["aft_shuffled"] == "control"


def test_the_page_says_what_limits_its_intervals(page):
    assert "the seeds are not fully independent" in page.told
    assert "adjusted after Holm for the 4 comparisons on this page" in page.told
    assert "Controls are grey." in page.told


def test_columns_follow_the_metrics_of_the_task(tmp_path):
    project = Workspace(tmp_path, REGRESSION)
    project.run("none", [2.0, 2.1, 1.9, 2.05, 2.0], methods=[])
    project.run("aft", [1.5, 1.7, 1.4, 1.6, 1.5], probe=1.2)
    page = page_of(project.report())
    cells = [cell.replace("\N{MINUS SIGN}", "-") for cell in page.rows["aft"]]
    assert cells[1:6] == ["1.54", "± 0.051", "-0.47", "-0.526 to -0.414", "5 of 5"]
    assert cells[10:] == ["1.52", "31 s"]
    for told in ("test RMSE, kWh", "Differences are paired by seed, in kWh", "Lower is better."):
        assert told in page.told


def test_the_mark_of_a_run_follows_the_direction_of_the_metric(tmp_path):
    project = Workspace(tmp_path, REGRESSION)
    project.run("none", [2.0, 2.1, 1.9, 2.05, 2.0], methods=[])
    project.run("lower", [1.5, 1.7, 1.4, 1.6, 1.5])
    project.run("higher", [2.5, 2.7, 2.4, 2.6, 2.5])
    html = project.report().page.read_text()
    assert '<li class="gain"><b>lower</b>' in html
    assert '<li class="loss"><b>higher</b>' in html


def test_a_log_loss_that_is_not_finite_is_a_dash_and_null(tmp_path):
    project = Workspace(tmp_path)
    project.run("none", NONE, methods=[])
    evaluation = project.read("evaluations/none.json")
    evaluation["results"][2]["scores"]["log_loss"] = None
    project.write("evaluations/none.json", evaluation)
    made = project.report()
    assert made.metrics["none"]["log_loss"] is None
    assert page_of(made).rows["none"][-2] == "—"


def test_two_comparisons_have_two_p_values_adjusted_and_one_has_no_remark(tmp_path):
    project = Workspace(tmp_path)
    project.run("none", NONE, methods=[])
    project.run("aft", AFT)
    assert "Holm" not in page_of(project.report()).told
    project.run("kd", KD)
    assert "adjusted after Holm for the 2 comparisons" in page_of(project.report()).told
