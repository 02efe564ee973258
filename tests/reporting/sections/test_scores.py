"""Scores that nothing is chosen by: means over seeds, and each class of the best run."""

from pathlib import Path

from pipeline.records import ClassRecord, DetailsRecord, Metric
from pipeline.reporting.sections import scores

from ..records import AFT, NONE, Workspace

MORE = (Metric(name="auroc", label="AUROC", unit="%"), Metric(name="temperature", label="temperature"))


def details(*aurocs: float, classes: int = 2) -> list[dict]:
    return [
        DetailsRecord(
            seed=seed,
            scores={"auroc": auroc, "temperature": 1.25},
            classes=tuple(
                ClassRecord(name=f"class {n}", scores={"rows": 1200.0, "recall": None, "f1": (n + seed) / 100})
                for n in range(classes)
            ),
            confusion=((1100, 100), (7, 1193)) if classes == 2 else (),
        ).model_dump(mode="json")
        for seed, auroc in enumerate(aurocs)
    ]


def workspace(tmp_path: Path, classes: int = 2) -> Workspace:
    made = Workspace(tmp_path)
    more = [metric.model_dump() for metric in MORE]
    made.run("none", NONE[:2], methods=[])
    made.change("evaluations/none.json", more=more, details=details(0.7, 0.8))
    made.run("aft", AFT[:2])
    made.change("evaluations/aft.json", more=more, details=details(0.8, 0.9, classes=classes))
    return made


def test_scores_are_means_over_seeds_and_classes_those_of_the_best_run(tmp_path: Path):
    told = workspace(tmp_path).section(scores).told
    assert "run AUROC, % temperature none 75.00 1.25 aft 85.00 1.25" in told
    assert "Each class, by aft class test rows recall, % F1, % class 0 1,200 — 0.50 class 1 1,200 — 1.50" in told
    assert "class class 0 class 1 class 0 2,200 200 class 1 14 2,386" in told


def test_of_many_classes_those_with_the_lowest_f1_are_shown(tmp_path: Path):
    told = workspace(tmp_path, classes=33).section(scores).told
    assert "class 29 1,200" in told and "class 30 1,200" not in told
    assert "3 classes with a higher F1 left out" in told


def test_what_features_know_is_shown_for_each_run_and_teacher(tmp_path: Path):
    made = workspace(tmp_path)
    near = [{"source": "minilm", "scores": {"cka": 0.25, "agreement": 0.5 + seed / 10}} for seed in range(2)]
    features = [
        {"seed": seed, "scores": {"linear": 0.6 + seed / 10, "neighbours": 0.5}, "teachers": [near[seed]]}
        for seed in range(2)
    ]
    made.change("evaluations/aft.json", features=features)
    told = made.section(scores).told
    assert "run accuracy, % linear probe: accuracy, % nearest neighbours: accuracy, %" in told
    assert "65.00 50.00 run teacher agreement, % CKA aft minilm 55.00 0.25" in told


def test_of_a_task_without_more_scores_features_are_shown_alone(tmp_path: Path):
    made = workspace(tmp_path)
    features = [{"seed": 0, "scores": {"linear": 0.6, "neighbours": 0.5}}, {"seed": 1, "scores": {"linear": 0.6}}]
    for name in ("none", "aft"):
        made.change(f"evaluations/{name}.json", more=[], features=features)
    told = made.section(scores).told
    assert "AUROC" not in told and "60.00 —" in told and "teacher agreement" not in told


def test_without_such_scores_there_is_no_section(tmp_path: Path):
    made = Workspace(tmp_path)
    made.run("none", NONE, methods=[])
    assert scores.context(made.inputs()) is None
