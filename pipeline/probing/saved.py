"""Probes on disk: the fitted module of every split, and its outputs for all rows, computed once.

probes/<teacher>/<head>/probe.json                  scores, a `ProbeRecord`
probes/<teacher>/<head>/<split>/probe.safetensors   the module, and what it was fitted on
probes/<teacher>/<head>/<split>/linear.npy          outputs of every row [rows, C], float32; and kernel.npy
probes/<teacher>/<head>/<split>/linear_crossfit.npy outputs of every labelled training row by the fit without its
                                                    fold [labelled, C]; and kernel_crossfit.npy
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.files import write_atomically
from pipeline.probing.probe import Probe
from pipeline.project import Project
from pipeline.records import ProbeRecord
from pipeline.store import SourceFeatures
from pipeline.verified import VerifiedFiles

OutputKind = Literal["linear", "linear_crossfit", "kernel", "kernel_crossfit"]
"""Outputs of a probe. Cross-fitted ones of a labelled training row come from the fit without the row's fold, and are
otherwise the same: what a probe outputs for rows that it was fitted on repeats their labels."""

OUTPUT_KINDS: tuple[OutputKind, ...] = get_args(OutputKind)

MODULE = "probe.safetensors"


def fitted_on(data: Dataset, split: int, features: SourceFeatures) -> dict[str, str]:
    """What a probe depends on besides settings: features, rows, roles and visible labels."""
    return {"features": features.digest, "split": data.split_digest(split)}


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

    Raises:
        UserError: there is none, it is damaged, or it was fitted on other features, rows or labels: the test rows of
            another split may have been its training rows.
    """

    def __init__(self, project: Project, features: SourceFeatures, split: int, data: Dataset):
        self.folder = project.probe(features.source) / str(split)
        self.again = f"run `aft probe {features.source.teacher}`"
        self._rows = len(data)
        self._outputs = len(data.task.outputs)
        self._labelled = data.split(split).labelled
        self._maps: dict[str, np.ndarray] = {}
        path = self.folder / MODULE
        if not path.is_file():
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

    @cached_property
    def module(self) -> Probe:
        """The fitted module, on the CPU. Raises `UserError` if it is damaged."""
        path = self.folder / MODULE
        try:
            return Probe(**load_file(path))
        except (OSError, SafetensorError) as error:
            raise self._damaged(path, error) from None

    def outputs(self, rows: np.ndarray, kind: OutputKind = "linear") -> Float[np.ndarray, "n c"]:
        """Outputs for rows of the dataset, in the order given; read from the disk, nothing is computed.

        Raises:
            UserError: the files are missing or damaged.
        """
        base, _, crossed = kind.partition("_")
        outputs = np.asarray(self._array(base)[rows])  # a copy in memory, not a map
        if crossed:
            places = np.searchsorted(self._labelled, rows).clip(max=len(self._labelled) - 1)
            labelled = self._labelled[places] == rows
            outputs[labelled] = self._array(kind)[places[labelled]]
        return outputs

    def _array(self, kind: str) -> np.ndarray:
        """The array of one file, mapped."""
        if kind not in self._maps:
            path = self.folder / f"{kind}.npy"
            shape = (len(self._labelled) if kind.endswith("_crossfit") else self._rows, self._outputs)
            try:
                array = np.load(path, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise self._damaged(path, error) from None
            if array.shape != shape or array.dtype != np.float32:
                raise self._damaged(path, f"{array.dtype} {array.shape} instead of float32 {shape}")
            self._maps[kind] = array
        return self._maps[kind]

    def _damaged(self, path: Path, error: Any) -> UserError:
        return UserError(f"{path}: damaged ({' '.join(str(error).split())}); {self.again}")
