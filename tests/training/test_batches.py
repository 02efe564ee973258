"""Which rows a step has: balanced classes, and parts whose losses add up to that of the whole step."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from pipeline import tasks
from pipeline.training.batches import balanced, parts

ROWS = np.arange(100, 140)
CLASSES = np.array([0] * 30 + [1] * 7 + [2] * 3)


def test_balanced_batches_have_equally_many_rows_of_each_class():
    of_row = dict(zip(ROWS.tolist(), CLASSES.tolist(), strict=True))
    seen: Counter[int] = Counter()
    for batch in islice(balanced(ROWS, CLASSES, 16, np.random.default_rng(0)), 300):
        counts = Counter(of_row[row] for row in batch.tolist())
        assert len(batch) == 16 and set(counts.values()) <= {5, 6}  # 16 places, three classes
        seen.update(batch.tolist())
    by_class = Counter({name: sum(n for row, n in seen.items() if of_row[row] == name) for name in range(3)})
    assert all(count == pytest.approx(1600, abs=60) for count in by_class.values())  # which has six is drawn
    for name in range(3):
        own = [seen[row] for row in ROWS[name == CLASSES].tolist()]
        assert max(own) - min(own) <= 1  # within a class all rows take turns


def test_balanced_batches_are_in_no_order_of_classes():
    batches = list(islice(balanced(ROWS, CLASSES, 16, np.random.default_rng(0)), 50))
    assert len({int(CLASSES[batch[0] - 100]) for batch in batches}) == 3


def mean_loss_and_gradient(task: tasks.Task, outputs: torch.Tensor, labels: np.ndarray) -> tuple[float, torch.Tensor]:
    leaf = outputs.clone().requires_grad_()
    loss = task.loss(leaf, torch.from_numpy(labels))
    loss.backward()
    assert leaf.grad is not None
    return loss.item(), leaf.grad


@pytest.mark.parametrize("options", [{}, {"weights": {"a": 7.0, "c": 0.2}}, {"smoothing": 0.2}])
@pytest.mark.parametrize("count", [1, 3, 10])
def test_the_losses_of_parts_add_up_to_that_of_the_batch(options: dict[str, object], count: int):
    random = np.random.default_rng(3)
    labels = random.integers(0, 3, 20)
    outputs = torch.from_numpy(random.normal(size=(20, 3)))
    task = tasks.build("classification", ["a", "b", "c"]).fitted(labels, **options)  # type: ignore[arg-type]
    loss, gradient = mean_loss_and_gradient(task, outputs, labels)
    together, leaf = 0.0, outputs.clone().requires_grad_()
    rows = np.arange(20)
    for part in parts(task, labels, rows, 20, None, count):
        added = part.loss(task.loss(leaf[part.rows], torch.from_numpy(labels[part.rows])))
        added.backward()
        together += added.item()
    assert leaf.grad is not None
    assert together == pytest.approx(loss, rel=1e-12)
    assert torch.allclose(leaf.grad, gradient, rtol=1e-12, atol=1e-14)


def test_parts_share_both_batches_and_keep_the_labelled_rows_first():
    rows, views = np.arange(50, 67), np.arange(17)
    task = tasks.build("classification", ["a", "b"])
    found = list(parts(task, np.zeros(67, np.int64), rows, 5, views, 3))
    assert [part.rows[: part.labelled].tolist() for part in found] == [[50, 51], [52, 53], [54]]
    assert [part.rows[part.labelled :].tolist() for part in found] == [[*range(n, n + 4)] for n in (55, 59, 63)]
    assert all((part.views == part.rows - 50).all() for part in found if part.views is not None)
    assert [part.first for part in found] == [True, False, False]
    assert [part.task_share for part in found] == pytest.approx([0.4, 0.4, 0.2])
    assert [part.penalty_share for part in found] == pytest.approx([1 / 3] * 3)
    three = torch.tensor(1.0), [torch.tensor(10.0)]
    assert sum(part.loss(*three) for part in found).item() == pytest.approx(11.0)  # type: ignore[union-attr]
