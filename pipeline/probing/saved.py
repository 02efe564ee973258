"""Probes on disk: the fitted module of every split, and its outputs for all rows, computed once.

probes/<teacher>/<head>/probe.json                  scores, a `ProbeRecord`
probes/<teacher>/<head>/<split>/probe.safetensors   the module, and what it was fitted on
probes/<teacher>/<head>/<split>/linear.npy          outputs of every row [rows, C], float32; and kernel.npy
probes/<teacher>/<head>/<split>/linear_crossfit.npy outputs of every labelled training row by the fit without its
                                                    fold [labelled, C]; and kernel_crossfit.npy
probes/<teacher>/<head>/<family>/views.json         which views there are outputs for, a `ProbeViewsRecord`
probes/<teacher>/<head>/<family>/<split>/<k>/       the same four arrays for view k of every row
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.files import file_exists, write_atomically
from pipeline.functional.linear import folds
from pipeline.probing.probe import Probe
from pipeline.project import Project
from pipeline.records import ProbeRecord, ProbeViewsRecord
from pipeline.store import SourceFeatures
from pipeline.verified import VerifiedFiles

OutputKind = Literal["linear", "linear_crossfit", "kernel", "kernel_crossfit"]
"""Kinds of a probe's outputs. Cross-fitted outputs for a labelled training row come from the fit without its fold,
because a probe repeats the labels of rows that it was fitted on. For other rows they are the same."""

OUTPUT_KINDS: tuple[OutputKind, ...] = get_args(OutputKind)

MODULE, VIEWS = "probe.safetensors", "views.json"


def fitted_on(data: Dataset, split: int, features: SourceFeatures) -> dict[str, str]:
    """What a probe depends on apart from settings: features, rows, roles and visible labels."""
    return {"features": features.digest, "split": data.split_digest(split)}


def view_folder(views: Path, split: int, view: int) -> Path:
    """The folder, within that of a family of views, with the outputs of a split's probe for one view of every row."""
    return views / str(split) / str(view)


def save_module(path: Path, probe: Probe, identity: dict[str, str]) -> None:
    """Write a probe. Equal probes give equal bytes: safetensors sorts tensors, and metadata only if it has one key."""
    tensors = {name: tensor.contiguous() for name, tensor in sorted(probe.state_dict().items())}
    write_atomically(path, save(tensors, {"fitted_on": json.dumps(identity, sort_keys=True)}))


class SavedProbe:
    """The probe of one source on one split, as `aft probe` wrote it.

    Args:
        project: the project.
        features: of the source.
        split: its number.
        data: the dataset.
        views: heads of the store with views of these rows, whose outputs are needed too.

    Raises:
        UserError: there is none, it has no outputs for these views, it is damaged, or it was fitted on other features,
            rows or labels; it could then have been fitted on test rows.
    """

    def __init__(
        self, project: Project, features: SourceFeatures, split: int, data: Dataset, views: Sequence[str] = ()
    ):
        self.folder = project.probe(features.source) / str(split)
        again = f"run `aft probe {features.source.teacher}`"
        self.again = again if project.labelled is None else f"delete {project.probes} and run the sweep"
        self._rows = len(data)
        self._outputs = len(data.task.outputs)
        self._labelled = data.split(split).labelled
        self._strata = data.task.strata(data.labels[self._labelled])
        self._maps: dict[Path, np.ndarray] = {}
        path = self.folder / MODULE
        if not file_exists(path):
            raise UserError(f"{path}: no probe of `{features.source}`; {self.again}")
        record = ProbeRecord.read(self.folder.with_name("probe.json"), features.source.teacher)
        files = {name: checksum for name, checksum in record.files.items() if name.startswith(f"{split}/")}
        VerifiedFiles(self.folder.parent, files, f"{self.again} again").finish()
        try:
            with safe_open(path, "numpy") as file:
                identity = json.loads((file.metadata() or {}).get("fitted_on", "{}"))
        except (OSError, SafetensorError, ValueError) as error:
            raise self._damaged(path, error) from None
        if identity != fitted_on(data, split, features):
            raise UserError(f"{path}: fitted on other features, splits or labels than these; {self.again}")
        self._split, self._views = split, project.probe_views(features.source)
        if views:
            self._check_views(features, views)

    def _check_views(self, features: SourceFeatures, views: Sequence[str]) -> None:
        path, wanted = self._views / VIEWS, tuple(features.store.head_digest(head) for head in views)
        found = ProbeViewsRecord.read(path, features.source.teacher) if file_exists(path) else None
        if found is None or found.views[: len(wanted)] != wanted:
            raise UserError(f"{self._views}: no outputs for these views of `{features.source.clean}`; {self.again}")
        files = {name: checksum for name, checksum in found.files.items() if name.startswith(f"{self._split}/")}
        VerifiedFiles(self._views, files, f"{self.again} again").finish()

    @cached_property
    def module(self) -> Probe:
        """The fitted module, on the CPU. Raises `UserError` if it is damaged."""
        path = self.folder / MODULE
        try:
            return Probe(**load_file(path))
        except (OSError, SafetensorError) as error:
            raise self._damaged(path, error) from None

    def outputs(
        self, rows: np.ndarray, kind: OutputKind = "linear", views: np.ndarray | None = None
    ) -> Float[np.ndarray, "n c"]:
        """Outputs for rows of the dataset, in the order given, read from disk.

        Args:
            rows: their numbers.
            kind: of outputs.
            views: the view's number for each row; clean rows if None.

        Raises:
            UserError: the files are missing or damaged.
        """
        if views is not None:
            outputs = np.empty((len(rows), self._outputs), np.float32)
            for number in np.unique(views).tolist():
                outputs[views == number] = self._outputs_of(rows[views == number], kind, number)
            return outputs
        return self._outputs_of(rows, kind, 0)

    @torch.no_grad()
    def outputs_for(
        self, features: Float[torch.Tensor, "n d"], rows: np.ndarray, kind: OutputKind = "linear"
    ) -> Float[torch.Tensor, "n c"]:
        """Outputs for features that are not in the store, such as those of other views.

        Args:
            features: raw, on the CPU.
            rows: of the dataset, that they are of. Cross-fitted outputs depend on them.
            kind: of outputs.
        """
        base, _, crossed = kind.partition("_")
        if not crossed:
            return self.module(features, base)
        fold_of = torch.full((self._rows,), -1)
        fold_of[self._labelled] = torch.from_numpy(folds(self._strata, self._split))
        return self.module(features, base, fold_of[rows])

    def _outputs_of(self, rows: np.ndarray, kind: OutputKind, view: int) -> np.ndarray:
        base, _, crossed = kind.partition("_")
        folder = view_folder(self._views, self._split, view) if view else self.folder
        outputs = np.asarray(self._array(folder, base)[rows])  # a copy in memory, not a map
        if crossed:
            places = np.searchsorted(self._labelled, rows).clip(max=len(self._labelled) - 1)
            labelled = self._labelled[places] == rows
            outputs[labelled] = self._array(folder, kind)[places[labelled]]
        return outputs

    def _array(self, folder: Path, kind: str) -> np.ndarray:
        """The array of one file, mapped."""
        path = folder / f"{kind}.npy"
        if path not in self._maps:
            shape = (len(self._labelled) if kind.endswith("_crossfit") else self._rows, self._outputs)
            try:
                array = np.load(path, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise self._damaged(path, error) from None
            if array.shape != shape or array.dtype != np.float32:
                raise self._damaged(path, f"{array.dtype} {array.shape} instead of float32 {shape}")
            self._maps[path] = array
        return self._maps[path]

    def _damaged(self, path: Path, error: Any) -> UserError:
        return UserError(f"{path}: damaged ({' '.join(str(error).split())}); {self.again}")
