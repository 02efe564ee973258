"""Shared by formats of graphs: the student as a function of tensors, and the files for its preprocessing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.files import write_atomically
from pipeline.students import STUDENT, Blueprint, Graph, Student


def traced(
    folder: Path, blueprint: Blueprint, student: Student, rows: Sequence[Any]
) -> tuple[Graph, tuple[Tensor, ...]]:
    """Write student.json and the preprocessing files; return the graph and its inputs for `rows`."""
    preprocess, graph = blueprint.preprocessing(), student.graph()
    blueprint.write(folder / STUDENT)
    for name, text in preprocess.files().items():
        write_atomically(folder / name, text)
    return graph, graph.arrange(preprocess(rows))


def graph_of(blueprint: Blueprint) -> Graph:
    """The graph of an untrained student, for the names and the arrangement of its inputs."""
    return blueprint.build(pretrained=False).graph()
