"""The candidates of a run: each has a weight for every method, and the settings that the run searches.

Every method is built once before anything is trained, so that errors are found first, and each `weight: auto` becomes a
list.
"""

from dataclasses import replace
from itertools import islice
from statistics import median
from typing import Any

import torch

from pipeline.provenance import digest_of
from pipeline.runs import Candidate
from pipeline.students import Scaled, Student
from pipeline.training import auto_weight
from pipeline.training.batches import Part, batches
from pipeline.training.ledger import Trial, inputs_of
from pipeline.training.log import WeightedPenalty
from pipeline.training.prefetch import get_ready
from pipeline.training.session import Session, TrialData
from pipeline.training.trial import build_penalties, losses, reads_of


def trials_of(session: Session) -> list[Trial]:
    """All trials of a run: seed by seed, candidates with the smallest weights first.

    Raises:
        UserError: a method lacks something that it needs, or a candidate's settings are wrong.
    """
    candidates = find_candidates(session)
    return [
        Trial(seed, candidate, digest_of(inputs_of(session, seed, candidate)))
        for seed in session.plan.settings({}).seeds
        for candidate in candidates
    ]


def find_candidates(session: Session) -> list[Candidate]:
    """The candidates. Every method is built once, so that errors are found now, and each `auto` becomes a list.

    Raises:
        UserError: a method lacks something that it needs, or a candidate's settings are wrong.
    """
    session.check_own_outputs()
    run, seed = session.run, session.plan.settings({}).seeds[0]
    # In reverse, and so ending with the data of the first one, which training needs first.
    for combination in reversed(run.combinations()):
        data = session.trial_data(seed, combination)
    known: dict[tuple[Any, ...], list[list[float]]] = {}

    def weights(combination: Candidate) -> list[list[float]]:
        """The weights of each method; where one is `auto`, measured once for each way to set the methods."""
        key = tuple(session.method(term, combination).model_dump_json() for term in run.methods)
        if key not in known:
            known[key] = _weights(session, data, combination)
        return known[key]

    return run.candidates(weights)


def _weights(session: Session, data: TrialData, combination: Candidate) -> list[list[float]]:
    """The weights to try of each method, with a combination of settings."""
    methods = session.run.methods
    torch.manual_seed(data.seed)
    student = data.blueprint.build().to(session.device)
    candidate = replace(combination, weights=tuple(1.0 for _ in methods))
    penalties = build_penalties(session, data, student, candidate)
    automatic = any(term.weight == "auto" for term in methods)
    measured = _equal_weights(session, data, student, penalties) if automatic else {}
    return [
        auto_weight.weights_to_try(measured[term.name], session.where(term)) if term.weight == "auto" else term.weight
        for term in methods
    ]


def _equal_weights(
    session: Session, data: TrialData, student: Student, penalties: dict[str, WeightedPenalty]
) -> dict[str, list[float]]:
    """Per method and batch, the weight at which its gradient on the untrained student is as strong as the task's."""
    student.train()

    def measure() -> tuple[dict[str, list[float]], float]:
        """Those weights, and the task's gradient as a share of that through an ordinary last layer."""
        weights: dict[str, list[float]] = {name: [] for name in penalties}
        shares = []
        steps = batches(data.split, data.seed, data.settings, bool(penalties), data.strata)
        for step, (rows, labelled) in enumerate(islice(steps, auto_weight.BATCHES)):
            views = data.draw_views(rows, labelled, step, bool(penalties))
            ready = get_ready(data, Part(rows, labelled, views), reads_of(penalties))
            task_loss, unweighted, features, _ = losses(data, student, penalties, ready, 0.0)
            at_outputs = data.task.initial_gradient(data.labels[rows[:labelled]])
            ordinary = auto_weight.ordinary_gradient(at_outputs)
            shares.append(auto_weight.gradient_norm(task_loss, features) / ordinary)
            for name, penalty in unweighted.items():
                weights[name].append(auto_weight.equal_weight(task_loss, penalty, features))
        return weights, median(shares)

    weights, share = measure()
    if share < auto_weight.SMALL:
        head = torch.nn.Linear(student.width, len(session.task.outputs)).to(session.device)
        # A student whose outputs are in the labels' unit has another inside, which ends with its last layer.
        with auto_weight.ordinary_head(student.student if isinstance(student, Scaled) else student, head):
            weights, _ = measure()
    return weights
