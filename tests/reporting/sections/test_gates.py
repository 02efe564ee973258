"""The remarks on learned gates."""

from statistics import quantiles

from pipeline.reporting.sections import gates

from ..records import AFT, Workspace


def test_seeds_that_agree_on_the_gates_are_distinguished_from_those_that_do_not(tmp_path):
    project = Workspace(tmp_path)
    project.run("aft", AFT)
    assert "Learned gates" not in project.section(gates).told
    same = [[0.1 * k + 0.01 * seed for k in range(8)] for seed in range(5)]
    opposite = [row if seed % 2 else row[::-1] for seed, row in enumerate(same)]
    project.write("runs/aft/gates.json", {"gates": {"minilm": same, "flat": [[0.5] * 8] * 5, "other": opposite}})
    told = project.section(gates).told
    deciles = quantiles([gate for seed in same for gate in seed], n=10, method="inclusive")
    spread = f"median {deciles[4]:.2f}, the middle 80% from {deciles[0]:.2f} to {deciles[8]:.2f}."
    assert f"8 gates; {spread} Rank correlation between seeds: 1.00." in told
    assert "In one seed or more all gates are equal." in told
    # Of ten pairs of seeds, four agree and six are reversed.
    assert "Rank correlation between seeds: -0.20." in told.replace("\N{MINUS SIGN}", "-")
