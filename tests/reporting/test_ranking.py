"""The report's section on the choice of teachers: on the page only where there is an assessment, and as recorded."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.functional.statistics import paired
from pipeline.probing.assessment import PATH, Assessment, Pair, Score, Start, Subset, Teacher
from pipeline.reporting.page import report
from pipeline.reporting.ranking import MOST, ranking

from .records import NONE, Project
from .test_page import points, show

T95 = 2.776445
"""The two-sided 95 % point of Student's t with 4 degrees of freedom."""

VAL = {
    ("wide",): [0.70, 0.71, 0.69, 0.72, 0.70],
    ("fast",): [0.66, 0.70, 0.68, 0.69, 0.70],
    ("wide", "fast"): [0.71, 0.70, 0.70, 0.73, 0.71],
}


def subset(teachers: tuple[str, ...], val: list[float], best: list[float] | None) -> Subset:
    scores = tuple(
        Score(k, 0.01, right, 0.8, right - 0.02, 5, right - 0.05, right - 0.06, -0.61) for k, right in enumerate(val)
    )
    against = None if best is None else paired([x - y for x, y in zip(val, best, strict=True)])
    size = len(teachers)
    gain = paired([x - y for x, y in zip(val, VAL["wide",], strict=True)]) if size > 1 else None
    return Subset(
        teachers, 384 * size, 768.0 * size, 0.005 * size, scores, against, ("wide",) if gain else None, gain, 2.0
    )


def assessment() -> Assessment:
    best = VAL["wide", "fast"]
    return Assessment(
        "0" * 32, {"wide": "a", "fast": "b"}, 5, 400, 400, 3000, 400, 4000,
        (Teacher("wide", 384, 768.0, 0.005), Teacher("fast", 384, 768.0, 0.005)),
        tuple(subset(teachers, val, None if val is best else best) for teachers, val in VAL.items()),
        (Pair(("wide", "fast"), (0.5, 0.52, 0.51, 0.5, 0.5), (0.2,) * 5, (0.4,) * 5),),
        (Start("wide", "bag", (0.1, 0.11, 0.1, 0.1, 0.1)), Start("fast", "bag", (-0.01, 0.0, 0.01, 0.0, 0.0))),
        ("wide",), ("Use wide alone: because.", "A second teacher <shows> no gain."), 12.0,
    )  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.run("none", NONE, methods=[])
    return made


def test_the_section_is_there_only_with_an_assessment(project: Project):
    assert "Choice of teachers" not in show(project)[1].text
    project.write(PATH, asdict(assessment()))
    page = show(project)[1]
    assert "Choice of teachers" in page.text
    assert "A second teacher <shows> no gain." in page.text
    assert page.tags.count("svg") > 1
    assert len(page.ids) == len(set(page.ids))


def test_the_table_holds_the_statistics_of_the_record(project: Project):
    project.write(PATH, asdict(assessment()))
    rows = show(project)[1].rows
    for teachers, val in VAL.items():
        row = rows[" + ".join(teachers)]
        assert points(row[1]) == pytest.approx(20 * sum(val), abs=0.0051)
        error = (sum((x - sum(val) / 5) ** 2 for x in val) / 4 / 5) ** 0.5
        assert points(row[2]) == pytest.approx(100 * error, abs=0.0051)
        assert [row[9], row[10]] == [f"{384 * len(teachers)}", f"{768 * len(teachers):,}"]
        assert points(row[11]) == 200 / len(teachers)
        assert points(row[12]) == pytest.approx(20 * sum(val) - 2, abs=0.0051)
    behind = [x - y for x, y in zip(VAL["fast",], VAL["wide", "fast"], strict=True)]
    error = (sum((x - sum(behind) / 5) ** 2 for x in behind) / 4 / 5) ** 0.5
    assert points(rows["fast"][3]) == pytest.approx(20 * sum(behind), abs=0.0051)
    low, high = (100 * (sum(behind) / 5 + sign * T95 * error) for sign in (-1, 1))
    assert [points(x) for x in rows["fast"][4].split(" to ")] == pytest.approx([low, high], abs=0.0051)
    assert rows["wide + fast"][3] == "—"
    assert points(rows["wide + fast"][5]) == pytest.approx(0.6)


def test_likeness_and_cost_are_on_the_page(project: Project):
    project.write(PATH, asdict(assessment()))
    rows = show(project)[1].rows
    assert rows["alike wide + fast"] == ["wide + fast", "0.506", "± 0.004", "20.00", "40.00"]
    assert rows["start wide bag"][1] == "0.102"
    made = show(project)[1]
    assert "3 subsets, 5 draws" in made.text


def test_one_teacher_has_numbers_and_no_drawing(project: Project):
    alone = assessment()
    alone = replace(alone, subsets=(replace(alone.subsets[0], against_best=None),), pairs=(), starts=())
    project.write(PATH, asdict(alone))
    before = ranking(project.root, "0" * 32)
    assert before is not None
    assert (before.wide, before.drawn) == ("", 0)
    assert points(show(project)[1].rows["wide"][1]) == 70.4


def test_many_subsets_and_long_names_are_drawn_as_far_as_they_fit(project: Project):
    found = assessment()
    names = [f"a_teacher_with_a_long_name_{k}" for k in range(6)]
    many = [replace(found.subsets[2], against_best=None)]
    many += [replace(found.subsets[1], teachers=(one, other)) for one in names for other in names if one < other]
    many += [replace(found.subsets[0], teachers=(one,)) for one in names]
    project.write(PATH, asdict(replace(found, subsets=tuple(many))))
    drawn = ranking(project.root, "0" * 32)
    assert drawn is not None
    assert drawn.drawn == MOST < len(many)
    assert f"The best {MOST} of {len(many)} subsets are drawn." in show(project)[1].text
    lines = [line for line in drawn.wide.split("<text")[1:] if "a_teacher" in line]
    assert all(len(line.split(">")[1].split("<")[0]) <= 32 for line in lines)


def test_one_draw_and_missing_test_rows_are_said(project: Project):
    found = assessment()
    subsets = tuple(replace(s, scores=(replace(s.scores[0], test_accuracy=None),)) for s in found.subsets)
    project.write(PATH, asdict(replace(found, draws=1, subsets=subsets)))
    page = show(project)[1]
    assert "One draw of the splits" in page.text
    assert page.rows["wide"][-1] == "—"


def test_an_assessment_of_another_dataset_or_a_damaged_one_is_refused(project: Project):
    project.write(PATH, asdict(replace(assessment(), dataset="1" * 32)))
    with pytest.raises(UserError, match="of another dataset; run `aft assess` again"):
        report(project.root, project.root / "report")
    (project.root / PATH).write_text("{}")
    with pytest.raises(UserError, match="damaged, or of another version"):
        report(project.root, project.root / "report")
