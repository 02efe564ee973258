r"""Logistic regression on tf-idf (ridge for numbers), solved by scikit-learn: what a user has without any of this.

A peer, and a floor, for students that are trained. It learns from the labelled training rows; the vocabulary and each
word's inverse document frequency come from all training rows, as those of `bag_of_words` do. A word with count c in a
text and frequency weight w has the value

$$ (1 + \log c)\, w \Big/ \sqrt{\textstyle\sum_{words} ((1 + \log c)\, w)^2}, $$

as in scikit-learn with `sublinear_tf=True`. It has no layer before its outputs, so its features are its outputs.
"""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from scipy.sparse import csr_matrix, vstack
from torch import Tensor, nn

from pipeline import students
from pipeline.data import Dataset
from pipeline.params import Settings as Base
from pipeline.students._words import Vocabulary, Words, fit_vocabulary, lengths_of, pad
from pipeline.tasks import Task
from pipeline.views import Views

KIND: Literal["text"] = "text"

BLOCK = 4096
"""Rows that are weighed at a time."""

TINY = 1e-12
"""The least norm of a text: one without a known word has none."""


class Settings(Base):
    """Keys of a student of this family.

    Attributes:
        vocabulary: at most this many words, the most frequent first.
        min_count: a word must occur in this many training rows.
        pairs: also count pairs of neighbouring words.
        strength: the inverse of the L2 penalty, `C` of scikit-learn; search it on validation rows.
    """

    vocabulary: int = Field(default=65536, ge=1)
    min_count: int = Field(default=2, ge=1)
    pairs: bool = False
    strength: float = Field(default=10.0, gt=0)


def fit(settings: Settings, data: Dataset, rows: np.ndarray) -> dict[str, Any]:
    """The words of the training rows and their weights: the most frequent, ties in alphabetical order."""
    return fit_vocabulary(data, rows, settings.vocabulary, settings.min_count, settings.pairs)


def inputs(settings: Settings, fitted: dict[str, Any], data: Dataset, views: Views | None = None) -> Words:
    """All texts as word numbers, once."""
    vocabulary = preprocessing(settings, fitted)
    return Words(data, vocabulary.key, vocabulary.encode, views)


def preprocessing(settings: Settings, fitted: dict[str, Any]) -> Vocabulary:
    """Texts as word numbers."""
    return Vocabulary(fitted["vocabulary"], settings.pairs)


def build(settings: Settings, fitted: dict[str, Any], classes: int, pretrained: bool = True) -> "TfIdf":
    """A student for C outputs, all 0 until it is solved."""
    return TfIdf(fitted["weights"], classes)


def solve(
    settings: Settings, student: "TfIdf", inputs: students.Inputs, rows: np.ndarray, labels: np.ndarray, task: Task
) -> None:
    """Give the student the best weights for the labels of rows, in the task's terms."""
    task.check_training(labels, "tfidf")
    blocks = [student.rows(inputs.batch(rows[start : start + BLOCK])) for start in range(0, len(rows), BLOCK)]
    weight, bias = task.linear.fit_sparse(vstack(blocks, "csr"), labels, settings.strength, task.row_weights(labels))
    # Its outputs are scaled to the unit of the labels, in which the fit already is.
    with torch.no_grad():
        student.words.weight.copy_(torch.from_numpy(weight.T / task.scale))
        student.bias.copy_(torch.from_numpy((bias - task.shift) / task.scale))


class TfIdf(students.Student):
    """See the module. `weights` holds one per word of the vocabulary; number 0, no known word, weighs 0."""

    def __init__(self, weights: list[float], classes: int):
        super().__init__()
        self.width = classes
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor([0.0, *weights]))
        self.words = nn.EmbeddingBag(len(weights) + 1, classes, mode="sum")
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.zeros_(self.words.weight)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
        """The outputs of n texts, which are their features too; see `Vocabulary`."""
        values, _ = self._values(*inputs)
        outputs = self.words(*inputs, per_sample_weights=values) + self.bias
        return outputs, outputs

    def rows(self, inputs: tuple[Tensor, Tensor]) -> csr_matrix:
        """The tf-idf values of n texts, sparse [n, words + 1]."""
        values, text = self._values(*inputs)
        shape = (len(inputs[1]), len(self.weights))
        return csr_matrix((values.double().numpy(), (text.numpy(), inputs[0].numpy())), shape)

    def _values(
        self, numbers: Int[Tensor, " words"], offsets: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, " words"], Int[Tensor, " words"]]:
        """Of each word in the texts its share in the word's value, which is their sum, and the text that it is in."""
        lengths = lengths_of(numbers, offsets)
        text = torch.repeat_interleave(torch.arange(len(offsets), device=offsets.device), lengths)
        _, place, times = torch.unique(text * len(self.weights) + numbers, return_inverse=True, return_counts=True)
        share, square = self.shares(numbers, times[place])
        norms = square.new_zeros(len(offsets)).index_add(0, text, square).sqrt()
        return share / norms.clamp_min(TINY)[text], text

    def shares(
        self, numbers: Int[Tensor, "*words"], count: Int[Tensor, "*words"]
    ) -> tuple[Float[Tensor, "*words"], Float[Tensor, "*words"]]:
        """Of each of `count` equal words of a text, its share in their value and in its square, before the norm."""
        value = (1 + count.log()) * self.weights[numbers]
        return value / count, value.square() / count

    def graph(self) -> students.Graph:
        """Of `input_ids` and `attention_mask` [n, l], padded: graph formats have no bags of uneven length."""
        return students.Graph(_PaddedTfIdf(self), ("input_ids", "attention_mask"), ((0, 1), (0, 1)), pad)


class _PaddedTfIdf(nn.Module):
    """The outputs of tf-idf from padded numbers."""

    def __init__(self, student: TfIdf):
        super().__init__()
        self.student = student

    def forward(self, *inputs: Int[Tensor, "n l"]) -> Float[Tensor, "n c"]:
        numbers, mask = inputs
        equal = (numbers[:, :, None] == numbers[:, None, :]) * mask[:, None, :]  # [n, l, l]
        share, square = self.student.shares(numbers, equal.sum(2).clamp_min(1))
        norms = (square * mask).sum(1, keepdim=True).sqrt().clamp_min(TINY)
        vectors = self.student.words.weight[numbers] * (share * mask / norms)[..., None]
        return vectors.sum(1) + self.student.bias
