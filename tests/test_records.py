"""Records: what is written is read back, equal records give equal bytes, and a damaged file is one line."""

import math
import os
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.functional.statistics import paired
from pipeline.records import (
    AssessmentRecord,
    CandidateRecord,
    GatesRecord,
    LogRecord,
    Metric,
    PairRecord,
    SeedScores,
    SourceRecord,
    SubsetRecord,
    SubsetScores,
    mean_score,
    to_json,
)
from tests.memory import at_most

ACCURACY = Metric(name="accuracy", label="accuracy", unit="%")


def test_a_score_is_written_with_its_unit_in_the_lines_of_commands():
    assert ACCURACY.written(0.65384) == "0.6538"
    assert Metric(name="rmse", label="RMSE", unit="kWh").written(1.23456) == "1.2346 kWh"
    assert Metric(name="rmse", label="RMSE").written(1.23456) == "1.2346"
    assert ACCURACY.written(None) == "unknown"


def subset(values, tests=None, **changed):
    scores = tuple(
        SubsetScores(
            split=k, strength=0.1, val={"accuracy": value}, test={} if tests is None else {"accuracy": tests[k]},
            neighbours=3, knn_val={"accuracy": 0.5}, knn_test={}, logme=-0.5 - k,
        )
        for k, value in enumerate(values)
    )  # fmt: skip
    fields = {"sources": ("a", "b"), "width": 8, "bytes_per_row": 16.0, "against_best": None, "best_part": None}
    return SubsetRecord(**fields | {"scores": scores, "gain": None} | changed)


@pytest.fixture
def assessment():
    return AssessmentRecord(
        data="d", stores={"a": "1"}, metrics=(ACCURACY,), splits=1, labelled=10, val=5, test=0, bank_rows=10,
        cka_rows=20, sources=(SourceRecord(name="a", width=8, bytes_per_row=16.0),), subsets=(subset([0.7, 0.8]),),
        pairs=(PairRecord(sources=("a", "b"), cka=(0.5,)),), starts=(), recommended=("a",), reasons=("Because.",),
    )  # fmt: skip


def test_a_record_is_read_back_as_it_was_written(tmp_path, assessment):
    path = tmp_path / "folder" / "teachers.json"
    assessment.write(path)
    assert AssessmentRecord.read(path) == assessment
    before = path.read_bytes()
    AssessmentRecord.read(path).write(path)
    assert path.read_bytes() == before


def test_a_missing_or_damaged_file_is_one_line_with_the_command(tmp_path):
    path = tmp_path / "gates.json"
    with pytest.raises(UserError, match=r"gates\.json: no such file; run `aft train kd`$"):
        GatesRecord.read(path, "kd")
    for fields, problem in (({"gates": 3}, "gates: "), ({"gates": {}, "more": 1}, "more: "), ({}, "gates: ")):
        path.write_text(to_json(fields))
        with pytest.raises(
            UserError, match=rf"damaged, or of another version \({problem}.*\); run `aft train kd` again"
        ) as error:
            GatesRecord.read(path, "kd")
        assert "\n" not in str(error.value)


def damages(content: bytes) -> Iterator[bytes]:
    """What may become of a file: every bit flipped, every length, and what an editor may leave."""
    for place in range(len(content)):
        for bit in range(8):
            yield content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
        yield content[:place]
    text = content.decode()
    yield text.replace("0.25", "0.5").encode()
    yield text.replace("0.25", "NaN").encode()
    yield text.replace("0.25", "9" * 5000).encode()
    yield text.replace("0.25", "[" * 100_000).encode()
    yield text.replace('"gates"', '"gates": {}, "gates"', 1).replace("0.25", "0.5").encode()
    yield b"[" + content + b"]"
    yield b"\xff\xfe" + content
    yield b"[" * 100_000


def test_a_changed_file_is_refused_or_means_the_same(tmp_path, monkeypatch):
    path = tmp_path / "gates.json"
    kept = GatesRecord(gates={"wise": ((0.25, 1.0),)})
    kept.write(path)
    refused = 0
    for content in damages(path.read_bytes()):
        path.write_bytes(content)
        try:
            assert GatesRecord.read(path, "kd") == kept
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
            assert str(error).endswith("run `aft train kd` again")
    assert refused > 500
    kept.write(path)
    path.write_text(path.read_text().replace("0.25", "0.5"))
    monkeypatch.setenv("AFT_NO_VERIFY", "1")
    assert GatesRecord.read(path).gates == {"wise": ((0.5, 1.0),)}


def test_a_record_cannot_be_changed_or_hold_a_number_that_json_has_not():
    log = LogRecord(seconds=1.0)
    with pytest.raises(ValueError, match="frozen"):
        log.seconds = 2.0
    with pytest.raises(ValueError, match="finite"):
        LogRecord(seconds=math.nan)


def test_a_score_that_is_not_finite_is_none():
    result = SeedScores(seed=0, split=0, scores={"accuracy": 0.5, "log_loss": math.inf, "other": math.nan})
    assert result.scores == {"accuracy": 0.5, "log_loss": None, "other": None}
    assert SeedScores.model_validate_json(result.model_dump_json()) == result


def test_a_mean_needs_every_value():
    assert mean_score([{"a": 1.0}, {"a": 2.0}], "a") == 1.5
    assert mean_score([{"a": 1.0}, {"a": None}], "a") is None
    assert mean_score([{"a": 1.0}, {}], "a") is None
    assert mean_score([], "a") is None


def test_a_candidate_is_complete_with_a_score_on_every_seed():
    assert CandidateRecord(weights=(), val_scores=(0.5, 0.6)).finite == (0.5, 0.6)
    assert CandidateRecord(weights=(), val_scores=(0.5, None)).finite == ()


def test_a_subset_has_means_over_splits():
    found = subset([0.7, 0.8], tests=[0.6, 0.5])
    assert found.name == "a + b"
    assert found.mean("val", "accuracy") == pytest.approx(0.75)
    assert found.mean("test", "accuracy") == pytest.approx(0.55)
    assert found.mean("knn_test", "accuracy") is None
    assert found.logme == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("differences", "inside"), [([0.1, -0.1, 0.02], True), ([0.1, 0.11, 0.1], False), ([0.1], True)]
)
def test_a_difference_is_within_the_noise_as_its_statistics_say(differences, inside):
    found = paired(differences)
    assert found.inside_noise == inside
    assert subset([0.7], against_best=found).inside_noise == inside
    assert subset([0.7]).inside_noise


def test_a_difference_in_a_file_is_as_strict_as_a_record():
    values = subset([0.7], against_best=paired([0.1, 0.2])).model_dump(mode="json")
    assert SubsetRecord.model_validate(values) == subset([0.7], against_best=paired([0.1, 0.2]))
    values["against_best"]["odd"] = 1
    with pytest.raises(ValidationError, match="odd"):
        SubsetRecord.model_validate(values)


def test_an_assessment_counts_in_singular_and_plural(assessment):
    text = "neighbours among 10 labelled rows, CKA on 20 training rows"
    assert str(assessment) == f"assessed 1 subset on 1 split ({text})\nBecause."
    more = assessment.model_copy(update={"splits": 5, "subsets": assessment.subsets * 3})
    assert str(more).startswith("assessed 3 subsets on 5 splits")


def test_a_record_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "gates.json"
    path.touch()
    os.truncate(path, 3 << 30)
    with at_most(1 << 28), pytest.raises(UserError, match=r"gates\.json: has 3,221,225,472 bytes, and no such file"):
        GatesRecord.read(path, "kd")
