from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Barrier, Lock, get_ident
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.data import Dataset
from pipeline.extraction import Replicas, extract
from pipeline.extraction.replicas import replica
from pipeline.teachers import Teacher

from .test_extractor import CPU, Load, Made, bits, encoder, settings, texts

__all__ = ["encoder", "texts"]

WAIT = 30.0
"""Seconds after which a test that waits for another thread has failed."""


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Keeps(nn.Module):
    """Keeps what it sees, and gives it back once all batches that run beside it are there, too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("mean", torch.zeros(3))
        self.seen = torch.zeros(0)

    def forward(self, rows: Tensor, meet: Barrier) -> Tensor:
        self.seen = rows
        meet.wait(WAIT)
        return self.seen * self.weight


class Own(Teacher):
    kind = "text"
    heads: Mapping[str, tuple[int, ...]] = {"pooled": (3,)}
    recipe: Mapping[str, Any] = {}
    device = CPU
    uniform = True
    replicable = True

    def __init__(self) -> None:
        self.model = Keeps()

    def transform(self, content: Any) -> Any:
        return content

    def cost(self, example: Any) -> int:
        return 1

    def collate(self, examples: Any) -> Any:
        return examples

    def forward(self, batch: Any) -> Any:
        return self.model(*batch)


def test_a_replica_has_the_weights_and_modules_of_its_own():
    teacher = Own()
    copy = replica(teacher)
    assert copy.model is not teacher.model
    assert copy.model.weight is teacher.model.weight and copy.model.mean is teacher.model.mean


@pytest.mark.parametrize("at_once", [2, 4])
def test_batches_that_run_beside_each_other_do_not_meet(at_once: int):
    torch.set_num_threads(at_once)
    replicas, meet = Replicas(Own()), Barrier(at_once)
    assert replicas.at_once == at_once
    batches = [torch.full((2, 3), float(number)) for number in range(3 * at_once)]
    outputs = list(replicas.map(lambda teacher, batch: teacher.forward((batch, meet)), batches))
    assert [found.unique().tolist() for found in outputs] == [[float(number)] for number in range(3 * at_once)]


@pytest.mark.parametrize(("cores", "at_once", "threads"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (6, 4, 2), (16, 4, 4)])
def test_cores_are_shared_by_the_batches(cores: int, at_once: int, threads: int):
    torch.set_num_threads(cores)
    replicas = Replicas(Own())
    assert replicas.at_once == at_once
    assert set(replicas.map(lambda *_: torch.get_num_threads(), range(20))) == {threads}
    assert torch.get_num_threads() == cores


def test_the_threads_are_as_before_after_an_error_and_where_it_is_left_early():
    torch.set_num_threads(3)
    replicas = Replicas(Own())
    with pytest.raises(ZeroDivisionError):
        list(replicas.map(lambda _, number: 1 // number, [1, 0, 1]))
    assert torch.get_num_threads() == 3
    found = replicas.map(lambda _, number: number, range(50))
    assert next(found) == 0
    found.close()
    assert torch.get_num_threads() == 3
    # None of them is lost.
    meet = Barrier(3)
    assert len(list(replicas.map(lambda *_: meet.wait(WAIT), range(3)))) == 3


@pytest.mark.parametrize("why", ["it says so", "its model holds a lock"])
def test_a_teacher_that_allows_no_copies_computes_in_the_thread_of_the_caller(why: str):
    torch.set_num_threads(4)
    teacher = Own()
    if why == "it says so":
        teacher.replicable = False
    else:
        teacher.model.lock = Lock()
    replicas = Replicas(teacher)
    assert replicas.at_once == 1
    found = list(replicas.map(lambda copy, _: (copy, get_ident(), torch.get_num_threads()), range(3)))
    assert found == [(teacher, get_ident(), 4)] * 3


def test_a_store_has_the_same_bits_whether_batches_run_beside_each_other(texts: Dataset, encoder: Load, tmp_path: Path):
    found = {}
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        extract(texts, encoder(), tmp_path / f"{threads}.zarr", settings(batch_size=16))
        found[threads] = bits(tmp_path / f"{threads}.zarr")
    assert found[1] == found[2] == found[4]


class Meets(Made):
    """Computes two batches at once or none."""

    replicable = True
    meet = Barrier(2)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.meet.wait(WAIT)
        return super().forward(batch)


def test_a_shard_is_begun_while_the_one_before_it_is_finished(texts: Dataset, tmp_path: Path):
    torch.set_num_threads(2)
    done = extract(texts, Meets(), tmp_path / "s.zarr", settings(batch_size=350, shard_rows=350))
    assert (done.written, done.reused) == (700, 0)
    torch.set_num_threads(1)
    extract(texts, Made(), tmp_path / "alone.zarr", settings(batch_size=350, shard_rows=350))
    assert bits(tmp_path / "s.zarr") == bits(tmp_path / "alone.zarr")
