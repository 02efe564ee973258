"""The cost of serving: every model at every size, and in the card of what is exported after."""

from pathlib import Path

import pytest
import yaml

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import CostRecord, RunRecord
from pipeline.serving import cost, measure_cost
from pipeline.serving.card import licence

from ..commands import aft
from ..conftest import PARAMS, WORDS, write_encoder


def test_student_and_teacher_take_turns(trained_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    encoder = write_encoder(tmp_path / "encoder", WORDS, width=16, layers=1)
    params = Params(PARAMS | {"teachers": {"wise": {"family": "transformers", "model": str(encoder)}}})
    project = Project(trained_project)
    run = RunRecord.read(project.run("none") / "run.json")
    taught = run.model_copy(update={"sources": ("wise", "wise/layer:1")})
    monkeypatch.setattr(cost.RunRecord, "read", classmethod(lambda cls, *arguments: taught))
    monkeypatch.setattr(cost, "Predictor", lambda *arguments, **options: Reads())
    found = measure_cost("none", params, project)
    assert [model.name for model in found.models] == ["student bag", "teacher wise"]
    assert [each.rows for each in found.models[1].batches] == [1, 32, 256]
    for model in found.models:
        assert model.parameters > 0 and model.bytes > 0
        for each in model.batches:
            assert 0 < each.p50 <= each.p95
            assert each.rows_per_second == pytest.approx(1000 * each.rows / each.p50)
    assert CostRecord.read(project.log("cost", "none")) == found
    project.log("cost", "none").unlink()


class Reads:
    """A student that takes no time."""

    def read(self, row):
        return row

    def encode(self, rows):
        return rows

    def outputs(self, batch):
        return batch


def test_a_run_that_was_not_trained_is_one_line(trained_project: Path):
    with pytest.raises(UserError, match="run `aft train aft`"):
        measure_cost("aft", Params(PARAMS), Project(trained_project))


def test_licences_are_found_or_shown_as_unknown(tmp_path: Path):
    assert licence({"family": "transformers", "model": "somebody/something"}) == ""
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    assert licence({"family": "transformers", "model": str(tmp_path)}) == "apache-2.0"
    (tmp_path / "README.md").write_text("---\n]:\n---\n")
    assert licence({"family": "transformers", "model": str(tmp_path)}) == ""
    assert "of the package" in licence({"family": "transformers", "model": "package:pydantic/x"})


def test_without_a_name_all_trained_runs_are_measured(
    trained_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipeline.serving.measure_cost", lambda run, params, project: f"measured {run}")
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(PARAMS))
    ended = aft(f"cost --params {params}", trained_project)
    assert (ended.code, ended.out) == (0, "measured none\n"), ended.errors
    refused = aft("cost", tmp_path)
    assert (refused.code, refused.refusals) == (2, ["no run is trained; run `aft train RUN` first"])
