"""After training: the student's last layer, mixed with one that is fitted to the labels alone.

A last layer that follows a probe repeats its mistakes, and one that knows only the labels suffers where these are few.
Both are linear in the student's features, so a weighted sum of their outputs is one last layer again:

    outputs = a * trained + b * fitted,    a, b >= 0

The student keeps its form: whatever evaluates, exports or serves it needs to know nothing of this. The fitted layer is
the linear model that the task has for probes, on the features of labelled rows; validation rows choose its penalty.
They also choose a and b, by the task's loss. Their own scores come from a and b that were chosen without them, fold by
fold.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from pipeline.functional.linear import FOLDS, folds
from pipeline.records import MixtureRecord
from pipeline.students import Student, student_outputs
from pipeline.tasks import Task
from pipeline.training.session import TrialData

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Candidates for the inverse of the L2 penalty of the fitted layer, on standardised features."""

MOST_ROWS = 10_000
"""The most labelled rows that it is fitted to; of more, a random sample."""

PULL = 1.0
"""Holds a and b at 1/2 where validation rows are few, or all right: it adds this times each squared difference to the
sum of their losses."""


@dataclass(frozen=True)
class Mixed:
    """What `mix_last_layer` did, and the outputs for validation rows, each with shares chosen without it [val, c]."""

    record: MixtureRecord
    outputs: Float[np.ndarray, "val c"]


def mix_last_layer(data: TrialData, student: Student, known: MixtureRecord | None = None) -> Mixed | None:
    """Mix the last layer of a trained student; None, and nothing done, if its outputs are not linear in its features.

    Args:
        data: of the trial.
        student: trained; its last layer changes.
        known: how it was mixed before, for a refit: validation rows are labelled training rows now and choose nothing.
    """
    task, labels, val = data.task, data.session.data.labels, data.split.val
    rows = _sample(task.strata(labels[data.split.labelled]), data)
    features, outputs = _last_input_and_output(data, student, rows)
    layer = last_layer(student, features, outputs)
    if layer is None:
        return None
    mean, std = features.mean(0), features.std(0)
    std = np.where(std > 0, std, 1).astype(np.float32)
    seen = (features - mean) / std
    val_features, trained = _last_input_and_output(data, student, val)
    chosen_on = (seen, labels[rows]) if known else ((val_features - mean) / std, labels[val])
    fitted = task.linear.fit(seen, labels[rows], *chosen_on, [known.strength] if known else STRENGTHS)
    # In the units of the last layer, as `Scaled` has it.
    weight = fitted.weight / std / np.float32(task.scale)
    bias = ((fitted.bias - task.shift) / task.scale - weight @ mean).astype(np.float32)
    both = np.stack([trained, val_features @ weight.T + bias])
    a, b = (known.trained, known.fitted) if known else shares(task, both, labels[val])
    crossed = np.empty_like(trained)
    fold_of = folds(task.strata(labels[val]), data.seed)
    for fold in range(FOLDS):
        others = fold_of != fold
        own = (a, b) if known else shares(task, both[:, others], labels[val][others])
        crossed[~others] = np.tensordot(np.array(own, np.float32), both[:, ~others], 1)
    with torch.no_grad():
        layer.weight.mul_(a).add_(torch.from_numpy(weight).to(layer.weight), alpha=b)
        layer.bias.mul_(a).add_(torch.from_numpy(bias).to(layer.bias), alpha=b)
    record = MixtureRecord(trained=a, fitted=b, strength=fitted.strength)
    return Mixed(record, (crossed * task.scale + task.shift).astype(np.float32))


def shares(task: Task, outputs: Float[np.ndarray, "2 n c"], labels: np.ndarray) -> tuple[float, float]:
    """a and b, not negative, that minimise n * loss(a z_1 + b z_2) + `PULL` * ((a - 1/2)^2 + (b - 1/2)^2).

    The problem is convex, so there is one minimum. Without rows, both are 1/2.

    Args:
        task: its loss is meant.
        outputs: z_1 and z_2, in the units of the last layer.
        labels: of the n rows.
    """
    # Imported here: it takes a while, and only this needs it.
    from scipy.optimize import minimize

    both, wanted = torch.from_numpy(outputs).double(), torch.from_numpy(labels)

    @torch.enable_grad()
    def loss_and_gradient(point: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(point).requires_grad_()
        loss = PULL * (at - 0.5).square().sum()
        if len(wanted):
            mixed = torch.tensordot(at, both, 1) * task.scale + task.shift
            loss = loss + len(wanted) * task.loss(mixed, wanted)
        (gradient,) = torch.autograd.grad(loss, at)
        return loss.item(), gradient.numpy()

    found = minimize(loss_and_gradient, [0.5, 0.5], jac=True, method="L-BFGS-B", bounds=[(0, None)] * 2).x
    return float(found[0]), float(found[1])


def last_layer(student: Student, features: np.ndarray, outputs: np.ndarray) -> nn.Linear | None:
    """The layer of the student that turns these features into these outputs; None if it has none, as for pairs.

    Args:
        student: of any family.
        features: of some rows [n, d].
        outputs: of the same rows, as the last layer gives them [n, c].
    """
    inputs, wanted = torch.from_numpy(features), torch.from_numpy(outputs)
    for layer in student.modules():
        if not isinstance(layer, nn.Linear) or layer.weight.shape != (wanted.shape[1], inputs.shape[1]):
            continue
        if isinstance(layer.weight, nn.Parameter) and isinstance(layer.bias, nn.Parameter):
            given = nn.functional.linear(inputs, layer.weight.detach().cpu(), layer.bias.detach().cpu())
            if torch.allclose(given, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())):
                return layer
    return None


def _last_input_and_output(
    data: TrialData, student: Student, rows: np.ndarray
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n c"]]:
    """The features of rows, and what the last layer makes of them, float32."""
    batches = student_outputs(student, data.inputs, rows, data.session.device)
    pairs = [(features.float().cpu(), outputs.float().cpu()) for features, outputs in batches]
    features, outputs = (torch.cat(each).numpy() for each in zip(*pairs, strict=True))
    return features, ((outputs - data.task.shift) / data.task.scale).astype(np.float32)


def _sample(strata: np.ndarray, data: TrialData) -> np.ndarray:
    """At most `MOST_ROWS` labelled rows, at random, but one of every stratum."""
    rows = data.split.labelled
    if len(rows) <= MOST_ROWS:
        return rows
    order = np.random.default_rng(data.seed).permutation(len(rows))
    first = np.unique(strata[order], return_index=True)[1]
    chosen = np.concatenate([first, np.delete(np.arange(len(order)), first)])[:MOST_ROWS]
    return np.sort(rows[order[chosen]])
