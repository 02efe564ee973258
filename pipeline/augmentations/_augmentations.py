"""The augmentations of a training, applied to the rows of one step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.augmentations._pixels import on_device
from pipeline.errors import UserError, listed
from pipeline.functional.philox import uniforms
from pipeline.params import Settings, parse
from pipeline.plugins import plugin, plugins


@dataclass(frozen=True)
class Augmentation:
    """One augmentation: its name, which is that of its file, and its settings."""

    name: str
    settings: Settings

    @property
    def module(self) -> ModuleType:
        """Its file."""
        return plugin("augmentations", self.name)

    @property
    def mixes(self) -> bool:
        """Whether it mixes a row with another one."""
        return hasattr(self.module, "mix")


def read_augmentations(values: Mapping[str, Any], where: str) -> tuple[Augmentation, ...]:
    """The section `train.augment`, in the order in which augmentations are applied.

    Args:
        values: settings by name.
        where: its place, for messages.

    Raises:
        UserError: there is no such augmentation, a key is wrong, or they are for rows of different kinds.
    """
    found = []
    for name, settings in values.items():
        module = plugin("augmentations", name, where)
        if not isinstance(settings, Mapping):
            raise UserError(f"{where}.{name}: expected a mapping of its settings, such as {{}}, found {settings!r}")
        found.append(Augmentation(name, parse(module.Settings, settings, f"{where}.{name}")))
    if len({each.module.KIND for each in found}) > 1:
        kinds = listed([f"{each.name} ({each.module.KIND})" for each in found])
        raise UserError(f"{where}: augmentations of images and of texts together: {kinds}; keep those of one kind")
    return tuple(sorted(found, key=lambda each: (each.module.PLACE, each.name)))


def check_kind(augmentations: Sequence[Augmentation], reads: str, where: str) -> None:
    """Make sure that augmentations change what a student reads.

    Args:
        augmentations: of its labelled rows.
        reads: "image", "text" or "features".
        where: their place, for messages.

    Raises:
        UserError: they do not; the line names those that fit.
    """
    for each in augmentations:
        if reads != each.module.KIND:
            fitting = [name for name in plugins("augmentations") if reads == plugin("augmentations", name).KIND]
            advice = f"take {listed(fitting)}" if fitting else "remove it"
            raise UserError(
                f"{where}: `{each.name}` changes rows of kind {each.module.KIND}, and the student reads {reads}; "
                f"{advice}"
            )


class Augmenter:
    """The augmentations of one training.

    Args:
        augmentations: in the order in which they are applied.
        seed: of the training.
        partners: the rows that others may be mixed with.
    """

    def __init__(self, augmentations: Sequence[Augmentation], seed: int, partners: Int[np.ndarray, " l"]):
        self.augmentations, self.seed, self.partners = augmentations, seed, partners

    def draw(
        self, rows: Int[np.ndarray, " n"], labelled: int, epoch: int, transfer_epoch: int | None = None
    ) -> "Augmented":
        """What becomes of the rows of a step.

        Args:
            rows: of the step, the labelled batch first.
            labelled: rows in the labelled batch, which are augmented.
            epoch: of the labelled batch.
            transfer_epoch: of the rows after it, which are then augmented too, but not mixed; they stay as they are
                if None.
        """
        epochs = np.full(labelled, epoch)
        if transfer_epoch is not None:
            epochs = np.concatenate([epochs, np.full(len(rows) - labelled, transfer_epoch)])
        return Augmented(self, rows, labelled, epochs)

    def numbers(self, name: str, rows: np.ndarray, epochs: np.ndarray, count: int) -> Float[np.ndarray, "n k"]:
        """The random numbers of an augmentation."""
        return uniforms(f"{self.seed}:{name}", rows, epochs, count)


class Augmented:
    """The rows of one step, augmented.

    Attributes:
        rows: of the step [n].
        labelled: how many of them, at the start, are the labelled batch. These alone may be mixed with others.
        epochs: of the rows that are augmented, which are the first.
        partners: the row that each of these is mixed with [labelled]; itself where it is not mixed.
        shares: of its own image and label in the mixture [labelled]; 1 where it is not mixed.
        others: the rows that are read in addition: the partners of those that are mixed.
    """

    def __init__(self, augmenter: Augmenter, rows: np.ndarray, labelled: int, epochs: np.ndarray):
        self._augmenter = augmenter
        self.rows, self.labelled, self.epochs = rows, labelled, epochs
        own = rows[:labelled]
        self.partners, self.shares = own.copy(), np.ones(labelled)
        self._mixed: list[tuple[Augmentation, np.ndarray]] = []
        mixing = [each for each in augmenter.augmentations if each.mixes]
        if mixing:
            which, whether, partner = augmenter.numbers("mix", own, epochs[:labelled], 3).T
            for number, each in enumerate(mixing):
                module, settings = each.module, each.settings
                chosen = (np.floor(which * len(mixing)) == number) & (whether < settings.share)  # type: ignore[attr-defined]
                at = np.flatnonzero(chosen)
                self.partners[at] = augmenter.partners[np.floor(partner[at] * len(augmenter.partners)).astype(np.int64)]
                self.shares[at] = module.share(settings, self._numbers(each, own[at], epochs[at]))
                self._mixed.append((each, at))
        at = np.concatenate([at for _, at in self._mixed]) if mixing else np.empty(0, np.int64)
        self.others, self._of_others = self.partners[at], epochs[at]

    def some(self, places: Int[np.ndarray, " k"]) -> "Augmented":
        """Of some of the rows, by their places, which ascend: the same pictures."""
        changed = places[places < len(self.epochs)]
        return Augmented(self._augmenter, self.rows[places], int((places < self.labelled).sum()), self.epochs[changed])

    def images(self, images: Float[Tensor, "m c h w"]) -> Float[Tensor, "n c h w"]:
        """The images of `rows`, and after them those of `others`, to those of the step; all in 0..1."""
        count, changed = len(self.rows), len(self.epochs)
        part = torch.cat([images[:changed], images[count:]])
        rows = np.concatenate([self.rows[:changed], self.others])
        epochs = np.concatenate([self.epochs, self._of_others])
        for each in self._augmenter.augmentations:
            if not each.mixes:
                part = each.module.change(each.settings, part, self._numbers(each, rows, epochs))
        own, start = part[: self.labelled], changed
        for each, at in self._mixed:
            on, others = on_device(at, images), part[start : start + len(at)]
            numbers = self._numbers(each, self.rows[at], self.epochs[at])
            own = own.index_copy(0, on, each.module.mix(each.settings, own[on], others, numbers))
            start += len(at)
        return torch.cat([own, part[self.labelled : changed], images[changed:count]])

    def texts(
        self, tokens: Int[np.ndarray, " t"], lengths: Int[np.ndarray, " n"], fixed: Sequence[int] = ()
    ) -> tuple[Int[np.ndarray, " u"], Int[np.ndarray, " n"]]:
        """Texts as numbers of words or tokens, one after another, without those that are left out.

        A text keeps at least one, the one with the largest random number.

        Args:
            tokens: of all texts.
            lengths: how many each of them has.
            fixed: tokens that always stay, such as those at the ends of a text.
        """
        count = len(self.epochs)
        longest = int(lengths[:count].max(initial=0))
        there = np.arange(longest) < lengths[:count, None]  # [changed, longest]
        changed, rest = np.split(tokens, [int(lengths[:count].sum())])
        stays = np.zeros_like(there)
        stays[there] = np.isin(changed, list(fixed))
        keep, last = there.copy(), there & ~stays
        for each in self._augmenter.augmentations:
            drawn = self._numbers(each, self.rows[:count], self.epochs, longest)
            keep &= stays | each.module.keep(each.settings, drawn)
            emptied = np.flatnonzero(last.any(1) & ~(keep & last).any(1))
            keep[emptied, np.where(last, drawn, -1.0).argmax(1)[emptied]] = True
        return np.concatenate([changed[keep[there]], rest]), np.concatenate([keep.sum(1), lengths[count:]])

    @cached_property
    def mixed(self) -> bool:
        """Whether any row is mixed with another."""
        return len(self.others) > 0

    def _numbers(
        self, each: Augmentation, rows: np.ndarray, epochs: np.ndarray, count: int | None = None
    ) -> np.ndarray:
        wanted = each.module.numbers(each.settings) if count is None else count
        return self._augmenter.numbers(each.name, rows, epochs, wanted)
