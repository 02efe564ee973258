"""The section on the choice of teachers: there only with an assessment, and as recorded."""

from typing import Any

import pytest

from pipeline.functional.statistics import Paired, paired
from pipeline.provenance import digest_of
from pipeline.records import (
    AssessmentRecord,
    Metric,
    PairRecord,
    SourceRecord,
    StartRecord,
    SubsetRecord,
    SubsetScores,
    ViewsRecord,
)
from pipeline.reporting import Stored
from pipeline.reporting.sections import costs, subsets
from pipeline.reporting.sections.subsets import MOST

from ..html import T95, points
from ..records import CLASSIFICATION, NONE, REGRESSION, Workspace

VAL = {
    ("wide",): [0.70, 0.71, 0.69, 0.72, 0.70],
    ("fast",): [0.66, 0.70, 0.68, 0.69, 0.70],
    ("wide", "fast"): [0.71, 0.70, 0.70, 0.73, 0.71],
}


def difference(one: list[float], other: list[float]) -> Paired:
    return paired([x - y for x, y in zip(one, other, strict=True)])


def subset(sources: tuple[str, ...], val: list[float], best: list[float] | None, metric: str) -> SubsetRecord:
    size = len(sources)
    return SubsetRecord(
        sources=sources, width=384 * size, bytes_per_row=768.0 * size,
        scores=tuple(
            SubsetScores(
                split=k, strength=0.01, val={metric: right}, test={metric: right - 0.02}, neighbours=5,
                knn_val={metric: right - 0.05}, knn_test={metric: right - 0.06}, logme=-0.61,
            )
            for k, right in enumerate(val)
        ),
        against_best=None if best is None else difference(val, best),
        best_part=("wide",) if size > 1 else None,
        gain=difference(val, VAL["wide",]) if size > 1 else None,
    )  # fmt: skip


def assessment(metrics: tuple[Metric, ...] = CLASSIFICATION, best: tuple[str, ...] = ("wide", "fast"), **changed: Any):
    record = AssessmentRecord(
        data=digest_of({}), stores={"wide": "a", "fast": "b"}, metrics=metrics, splits=5, labelled=400, val=400,
        test=3000, bank_rows=400, cka_rows=4000,
        sources=tuple(SourceRecord(name=name, width=384, bytes_per_row=768.0) for name in ("wide", "fast")),
        subsets=tuple(subset(s, val, None if s == best else VAL[best], metrics[0].name) for s, val in VAL.items()),
        pairs=(PairRecord(sources=("wide", "fast"), cka=(0.5, 0.52, 0.51, 0.5, 0.5), one_right=(0.2,) * 5,
                          by_chance=(0.4,) * 5),),
        starts=(StartRecord(source="wide", student="bag", cka=(0.1, 0.11, 0.1, 0.1, 0.1)),
                StartRecord(source="fast", student="bag", cka=(-0.01, 0.0, 0.01, 0.0, 0.0))),
        recommended=("wide",), reasons=("Use wide alone: because.", "A second teacher <shows> no gain."),
    )  # fmt: skip
    return record.model_copy(update=changed)


@pytest.fixture
def project(tmp_path):
    made = Workspace(tmp_path)
    made.run("none", NONE, methods=[])
    for name in ("wide", "fast"):
        made.log("extract", name, seconds=45.0, rows=9000)
    return made


def show(project, record):
    record.write(project.project.assessment)
    return project.section(subsets)


def drawn(project):
    found = subsets.context(project.inputs())
    assert found is not None
    return found


def test_the_section_is_there_only_with_an_assessment(project):
    assert "Choice of teachers" not in project.section(subsets).text
    page = show(project, assessment())
    assert "Choice of teachers" in page.text
    assert "A second teacher <shows> no gain." in page.text
    assert page.tags.count("svg") > 1
    assert len(page.ids) == len(set(page.ids))
    assert page.classes["wide"] == "baseline" and page.classes["fast"] == ""


def test_views_are_listed_with_their_spread_and_score(project):
    assert "wide@crops" not in show(project, assessment()).text
    views = tuple(
        ViewsRecord(source="wide", family=family, count=count, spread=(spread,) * 5, val=(val,) * 5)
        for family, count, spread, val in (("crops", 4, 0.011, 0.68), ("", 0, 0.012, 0.7))
    )
    row = show(project, assessment(views=views)).rows["views wide@crops"]
    assert row[:2] == ["wide@crops", "4"]
    assert float(row[2]) == pytest.approx(0.011) and points(row[4]) == pytest.approx(68)
    assert "clean 0.012" in str(assessment(views=views)) and "crops 0.011" in str(assessment(views=views))


def test_the_table_holds_the_statistics_of_the_record(project):
    rows = show(project, assessment()).rows
    for sources, val in VAL.items():
        row = rows[" + ".join(sources)]
        assert points(row[1]) == pytest.approx(20 * sum(val), abs=0.0051)
        error = (sum((x - sum(val) / 5) ** 2 for x in val) / 4 / 5) ** 0.5
        assert points(row[2]) == pytest.approx(100 * error, abs=0.0051)
        assert points(row[7]) == pytest.approx(20 * sum(val) - 5, abs=0.0051)
        assert [row[9], row[10]] == [f"{384 * len(sources)}", f"{768 * len(sources):,}"]
        assert points(row[11]) == 200 / len(sources)
        assert points(row[12]) == pytest.approx(20 * sum(val) - 2, abs=0.0051)
    behind = [x - y for x, y in zip(VAL["fast",], VAL["wide", "fast"], strict=True)]
    error = (sum((x - sum(behind) / 5) ** 2 for x in behind) / 4 / 5) ** 0.5
    assert points(rows["fast"][3]) == pytest.approx(20 * sum(behind), abs=0.0051)
    low, high = (100 * (sum(behind) / 5 + sign * T95 * error) for sign in (-1, 1))
    assert [points(x) for x in rows["fast"][4].split(" to ")] == pytest.approx([low, high], abs=0.0051)
    assert rows["wide + fast"][3] == "—"
    assert points(rows["wide + fast"][5]) == pytest.approx(0.6)


def test_pairs_and_cost_are_on_the_page(project):
    project.log("assess", "", seconds=12.0)
    page = show(project, assessment())
    assert page.rows["alike wide + fast"] == ["wide + fast", "0.506", "± 0.004", "20.00", "40.00"]
    assert page.rows["start wide bag"][1] == "0.102"
    assert "assess wide, fast 3 subsets, 5 splits 12 s" in project.section(costs).told


def test_a_task_without_right_and_wrong_has_no_such_columns(project):
    (pair,) = assessment().pairs
    page = show(project, assessment(pairs=(pair.model_copy(update={"one_right": (), "by_chance": ()}),)))
    assert page.rows["alike wide + fast"][3:] == ["—", "—"]


def test_without_a_log_of_an_extraction_its_rate_is_not_known(project):
    project.project.log("extract", "fast").unlink()
    rows = show(project, assessment()).rows
    assert [rows[name][11] for name in ("wide", "fast", "wide + fast")] == ["200", "—", "—"]


def test_one_source_has_numbers_and_no_figure(project):
    one = assessment().subsets[0].model_copy(update={"against_best": None})
    page = show(project, assessment(subsets=(one,), pairs=(), starts=()))
    assert points(page.rows["wide"][1]) == 70.4
    assert drawn(project)["figures"] is None
    assert "exactly one right" not in page.told


def test_many_subsets_and_long_names_are_drawn_as_far_as_they_fit(project):
    found = assessment().subsets
    names = [f"a_teacher_with_a_long_name_{k}" for k in range(6)]
    many = [found[2].model_copy(update={"against_best": None})]
    many += [found[1].model_copy(update={"sources": (x, y)}) for x in names for y in names if x < y]
    many += [found[0].model_copy(update={"sources": (x,)}) for x in names]
    page = show(project, assessment(subsets=tuple(many)))
    assert len(many) > MOST
    assert f"The best {MOST} of {len(many)} subsets are drawn." in page.told
    lines = [line for line in drawn(project)["figures"]["wide"].split("<text")[1:] if "a_teacher" in line]
    assert lines
    assert all(len(line.split(">")[1].split("<")[0]) <= 32 for line in lines)


def test_where_lower_is_better_the_lowest_is_the_best(tmp_path):
    project = Workspace(tmp_path, REGRESSION)
    project.run("none", NONE, methods=[])
    show(project, assessment(REGRESSION, best=("fast",)))
    svg = drawn(project)["figures"]["wide"]
    assert svg.index(">fast</text>") < svg.index(">wide</text>") < svg.index(">wide + fast</text>")
    assert "validation RMSE minus that of the best, kWh" in svg


def test_one_split_and_missing_test_rows_are_remarked(project):
    found = assessment().subsets
    one = tuple(s.model_copy(update={"scores": (s.scores[0].model_copy(update={"test": {}}),)}) for s in found)
    page = show(project, assessment(splits=1, subsets=one))
    assert "One split of" not in page.told and "One split; differences" in page.told
    assert page.rows["wide"][-1] == "—"


def test_an_assessment_of_other_data_or_features_or_a_damaged_one_is_listed(project):
    again = "than there are now; run `aft assess` again"
    assessment(data="1" * 32).write(project.project.assessment)
    assert project.inputs().missing == (f"{project.project.assessment}: of other data {again}",)
    assert "Choice of teachers" not in project.section(subsets).text
    assessment().write(project.project.assessment)
    stores = (Stored("wide", 9000, 1, 384, {"wide": "a"}), Stored("fast", 9000, 1, 384, {"fast": "c"}))
    assert project.inputs(stores=stores).missing == (
        f"{project.project.assessment}: of other features of `fast` {again}",
    )
    project.project.assessment.write_text("{}")
    assert "damaged, or changed by hand" in project.inputs().missing[0]
