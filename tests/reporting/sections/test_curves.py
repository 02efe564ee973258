"""Learning curves, and what they do not show."""

from pathlib import Path

from pipeline.reporting.sections import curves

from ..records import AFT, Workspace


def test_a_last_layer_that_was_mixed_is_told_next_to_the_curve(tmp_path: Path):
    project = Workspace(tmp_path)
    project.run("mixed", AFT, weights=(0.0, 3.0), methods=["aft"])
    assert "mixed:" not in project.section(curves).told
    diagnostics = project.read("runs/mixed/run.json")["diagnostics"]
    for seed, of in enumerate(diagnostics):
        of["mixture"] = {"trained": 0.25 * (seed % 2), "fitted": 0.5, "strength": 0.01}
    project.change("runs/mixed/run.json", diagnostics=diagnostics)
    mean = sum(0.25 * (seed % 2) for seed in range(len(diagnostics))) / len(diagnostics)
    assert (
        f"before its last layer was mixed: {mean:.2f} times that layer and 0.50 times one that was fitted to the labels"
    ) in project.section(curves).told
