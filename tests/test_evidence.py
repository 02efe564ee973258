"""The studies: their settings are valid, and tables are computed from records, each run paired with the others."""

from pathlib import Path

import pytest
import yaml

from experiments.evidence import HERE, REFERENCES, table
from experiments.sets import SETS
from pipeline.checks import check_params
from pipeline.params import Params

from .reporting.records import Workspace

STUDIES = sorted(HERE.glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_settings_of_a_study_are_valid(path: Path):
    params = Params.load(path)
    check_params(params)
    assert set(REFERENCES) <= params.section("runs").keys()
    # Files that no source reads by itself come from a function of the same name.
    assert (params.section("dataset")["source"]["family"] == "arrays") == (path.stem in SETS)


def test_a_table_is_what_the_records_say(tmp_path: Path):
    made = Workspace(tmp_path)
    made.run("none", [0.60, 0.62, 0.61], methods=[])
    made.run("clean", [0.66, 0.67, 0.68])
    made.run("views", [0.70, 0.70], seeds=[0, 1])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"runs": {**made.runs, "later": {}}}, sort_keys=False))
    rows = [line.split(" | ") for line in table("made", tmp_path).splitlines() if line.startswith("| ")]
    assert rows[0] == ["| run", "steps", "test, %", "against `none`", "against `clean` |"]
    # Differences 6, 5 and 7: mean 6, standard error 1 / sqrt(3), and Student's t of two degrees of freedom 4.303.
    assert rows[1] == ["| none", "1000", "61.0 ± 0.6", "", "-6.0 [-8.5, -3.5] |"]
    assert rows[2] == ["| clean", "1000", "67.0 ± 0.6", "+6.0 [3.5, 8.5]", " |"]
    assert rows[3] == ["| views", "1000", "70.0 ± 0.0", "other seeds", "other seeds |"]
    assert len(rows) == 4
