"""The studies: their settings are valid, and tables are computed from records, each run paired with the others."""

from pathlib import Path

import pytest
import yaml

from experiments.evidence import CELL, CENTRE, HERE, REFERENCES, over_sets, tables
from experiments.setfit_rival import Peer, write
from experiments.sets import SETS
from pipeline.checks import check_params
from pipeline.params import Params
from pipeline.records import BatchCost, CostRecord, ModelCost

from .reporting.records import Workspace

STUDIES = sorted(HERE.glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_settings_of_a_study_are_valid(path: Path):
    params = Params.load(path)
    check_params(params)
    runs = params.section("runs")
    cells = [(found[1], found[2]) for each in runs if (found := CELL.fullmatch(each))]
    # There is something to pair every run with.
    assert runs.keys() & set(REFERENCES) or len(cells) == len(runs)
    assert all((CENTRE, steps) in cells for _, steps in cells)
    # Files that no source reads by itself come from a function of the same name.
    assert ("raw/" in path.read_text()) == (path.stem in SETS)


def test_a_table_is_what_the_records_say(tmp_path: Path):
    made = Workspace(tmp_path)
    made.run("none", [0.60, 0.62, 0.61], methods=[])
    made.run("clean", [0.66, 0.67, 0.68])
    made.run("views", [0.70, 0.70], seeds=[0, 1])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"runs": {**made.runs, "later": {}}}, sort_keys=False))
    rows = [line.split(" | ") for line in tables("made", tmp_path).splitlines() if line.startswith("| ")]
    assert rows[0] == ["| run", "steps", "test, %", "against `none`", "against `clean`", "gap closed", "rows/s |"]
    # Differences 6, 5 and 7: mean 6, standard error 1 / sqrt(3), and Student's t of two degrees of freedom 4.303.
    assert rows[1] == ["| none", "1000", "61.0 ± 0.6", "", "-6.0 [-8.5, -3.5]", "", " |"]
    # 6 of the 8.8 points to the linear probe at 69.8, and of the 10 to the kernel probe at 71.
    assert rows[2] == ["| clean", "1000", "67.0 ± 0.6", "+6.0 [3.5, 8.5]", "", "68 %, 60 %", " |"]
    assert rows[3] == ["| views", "1000", "70.0 ± 0.0", "other seeds", "other seeds", "", " |"]
    assert len(rows) == 4


def test_errors_are_divided_by_those_of_plain_training(tmp_path: Path):
    for name, plus in (("one", [0.90, 0.80]), ("two", [0.85, 0.84])):
        made = Workspace(tmp_path / name)
        made.run("none", [0.80, 0.60], methods=[])
        made.run("none_mixed", [0.84, 0.75], methods=[])
        made.run("aft_plus", plus)
        made.run("aft", [0.90], seeds=[0])
        (tmp_path / name / "params.yaml").write_text(yaml.safe_dump({"runs": made.runs}, sort_keys=False))
    found = tables("one", tmp_path / "one")
    # Errors 20 and 40, 16 and 25, 10 and 20: ratios 0.8 and 0.625, 0.5 and 0.5, 0.625 and 0.8; Student's t is 12.706.
    assert (
        "| run | error over that of `none` | over that of `none_mixed` |\n|---|---|---|\n"
        "| none | 1.00 [1.00, 1.00] | 1.43 [-0.80, 3.65] |\n"
        "| none_mixed | 0.71 [-0.40, 1.82] | 1.00 [1.00, 1.00] |\n"
        "| aft_plus | 0.50 [0.50, 0.50] | 0.71 [-0.40, 1.82] |\n"
        "| aft | other seeds | other seeds |\n"
    ) in found
    # Of the other set: 0.75 and 0.4, 0.9375 and 0.64; the means of both sets are 0.5 and 0.575, 0.7125 and 0.7888.
    whole = over_sets([tmp_path / "one", tmp_path / "two"])
    assert whole.startswith("## 2 sets\n")
    assert "| aft_plus | 0.54 [0.06, 1.01] | 0.75 [0.27, 1.24] |" in whole
    assert "| aft | other seeds | other seeds |" in whole
    assert not over_sets([tmp_path / "one"])


def test_another_program_is_paired_with_the_runs_and_speeds_are_shown(tmp_path: Path):
    made = Workspace(tmp_path)
    made.run("none", [0.60, 0.62, 0.61], methods=[])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"runs": made.runs}))
    batches = tuple(BatchCost(rows=rows, rows_per_second=speed, p50=1, p95=1) for rows, speed in ((1, 9), (32, 1234)))
    models = (ModelCost(name="student", parameters=1, bytes=1, batches=batches),)
    CostRecord(run="none", students="", device="cpu", threads=1, models=models).write(made.project.log("cost", "none"))
    peer = Peer("any", [1, 0, 2], [0.70, 0.66, 0.69], rows_per_second=99.6)
    write(peer, tmp_path / "peers" / "other.json")
    rows = [line.split(" | ") for line in tables("made", tmp_path).splitlines() if line.startswith("| ")]
    # By seed, whatever their order: 6, 8 and 8.
    assert rows[1:] == [
        ["| none", "1000", "61.0 ± 0.6", "", "", "1,234 |"],
        ["| other", "", "68.3 ± 1.2", "+7.3 [4.5, 10.2]", "", "100 |"],
    ]
    write(Peer("any", [0, 1], [0.66, 0.70], rows_per_second=99.6), tmp_path / "peers" / "other.json")
    assert "| other |  | 68.0 ± 2.0 | other seeds |  | 100 |" in tables("made", tmp_path)


def test_runs_named_by_arm_and_steps_are_a_grid(tmp_path: Path):
    made = Workspace(tmp_path)
    made.run("plain_100", [0.60, 0.62, 0.61], methods=[])
    made.run("v0_100", [0.66, 0.67, 0.68], methods=["aft"])
    made.run("v8_100", [0.67, 0.69, 0.71], methods=["aft"])
    made.run("v8_400", [0.70, 0.70, 0.70], methods=["aft"])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"runs": made.runs}, sort_keys=False))
    found = tables("made", tmp_path)
    rows = [line.split(" | ") for line in found.splitlines() if line.startswith("| ")]
    assert rows == [
        ["| test, %", "100 steps", "400 steps |"],
        ["| plain", "61.0 ± 0.6", " |"],
        ["| v0", "67.0 ± 0.6", " |"],
        ["| v8", "69.0 ± 1.2", "70.0 ± 0.0 |"],
        # Student's t of two degrees of freedom: 4.303 / sqrt(3), for deviations of 1.
        ["| plain against v0", "-6.0 [-8.5, -3.5]", " |"],
        ["| v8 against v0", "+2.0 [-0.5, 4.5]", " |"],
    ]
    assert "The linear probe of minilm: 69.8. The kernel probe: 71.0." in found
