from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.functional.logme import logme
from pipeline.methods.b_tuning import Settings
from tests.methods.case import Case


def test_equals_its_definition(case: Case) -> None:
    context, signals = case.context, case.signals(5)
    rows = context.labelled_rows
    targets = torch.eye(3)[context.labels[rows]]
    models = [logme(context.teacher_features(k, rows), targets) for k in range(2)]
    student = logme(context.student_features(rows), targets)
    odds = [np.exp(model.score / 0.1) for model in models]
    features, total = signals.features.detach(), 0.0
    for i in range(5):
        for c in range(3):
            difference = sum(float(features[i, j] * student.weights[c, j]) for j in range(4))
            for k, model in enumerate(models):
                width = signals.teachers[k].shape[1]
                product = sum(float(signals.teachers[k][i, j] * model.weights[c, j]) for j in range(width))
                difference -= odds[k] / sum(odds) * product
            total += difference**2
    transfer = Settings().build(context).double()
    assert transfer(signals).item() == pytest.approx(total / 15, rel=1e-5)


def test_the_teacher_that_explains_the_labels_counts_most(case: Case) -> None:
    noise = torch.randn(60, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = case.context.teacher_features
    context = replace(case.context, teacher_features=lambda k, rows: noise[rows] if k else features(k, rows))
    shares = Settings(temperature=0.02).build(context).log()
    assert shares["share of teacher0"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)


def test_the_published_scores_share_out_otherwise_where_features_outnumber_rows(make: Callable[..., Case]) -> None:
    context = make(widths=(6, 50)).context
    sound, published = Settings().build(context).log(), Settings(compat="published").build(context).log()
    assert abs(sound["share of teacher0"] - published["share of teacher0"]) > 0.1


def test_without_labels_it_is_refused_before_training(case: Case) -> None:
    with pytest.raises(UserError, match="labelled training rows, and there are none"):
        Settings().build(replace(case.context, labelled_rows=np.array([], dtype=int)))
