"""Fitting probes: linear and kernel models on one source's features, per split.

A probe is fitted on the labelled training rows; validation rows choose its strength. The report compares students with
the linear probe, which also gives task directions. Methods follow the outputs of either probe, cross-fitted if asked
for. So the outputs for all rows are computed here, once, and saved with the probe. If the store has views, the same
probe, fitted on clean rows, also gives outputs for every view.
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from pydantic import Field

from pipeline.data import Dataset, Split, open_labelled
from pipeline.errors import UserError, count
from pipeline.files import explained, make_folder, replace_folder
from pipeline.functional import kernel_probe
from pipeline.functional.linear import Linear, folds
from pipeline.functional.standardisation import statistics
from pipeline.params import Settings
from pipeline.probing.own_outputs import own_scores
from pipeline.probing.probe import Probe, ProbeKind
from pipeline.probing.saved import MODULE, VIEWS, fitted_on, save_module, view_folder
from pipeline.progress import progress
from pipeline.project import Project
from pipeline.records import ProbeRecord, ProbeSplitRecord, ProbeViewsRecord, mean_score
from pipeline.store import Reader, SourceFeatures
from pipeline.verified import checksums

BLOCK = 8192
"""The number of rows whose features are in memory at a time while outputs are computed."""

KINDS: tuple[ProbeKind, ...] = ("linear", "kernel")


class ProbeSettings(Settings):
    """The `probe` section.

    Attributes:
        strengths: candidates for the inverse of the L2 penalty on standardised features; one is chosen on validation
            rows.
        sharpness: candidates for the sharpness of the kernel probe, whose kernel is radial on unit rows; one is chosen
            on validation rows.
        kernel_strengths: `strengths` for the kernel probe.
        kernel_rows: most labelled rows that the kernel probe is fitted on, a random sample; its cost grows with rows
            times landmarks.
        landmarks: most rows of these that span the kernel probe.
    """

    strengths: list[float] = Field(default=[1e-4, 1e-3, 1e-2, 1e-1, 1.0], min_length=1)
    sharpness: list[float] = Field(default=[0.25, 0.5, 1.0], min_length=1)
    kernel_strengths: list[float] = Field(default=[1.0, 10.0, 100.0, 1e3, 1e4], min_length=1)
    kernel_rows: int = Field(default=4000, ge=2)
    landmarks: int = Field(default=1024, ge=2)


@dataclass(frozen=True)
class ProbeResult:
    """What `probe` returns: the record of every source."""

    teacher: str
    probes: tuple[ProbeRecord, ...]

    def __str__(self) -> str:
        return "\n".join(map(_line, self.probes))


def probe(teacher: str, settings: ProbeSettings, project: Project = Project()) -> ProbeResult:
    """Fit the probes of a teacher on every split; write probes/<teacher>/.

    Every head of its store with one vector per row is a source and gets a probe, whether or not a run uses it: so the
    result does not depend on the runs, and adding a run needs no new probe.

    Raises:
        UserError: the store is missing, of another dataset, or has no such head; there are too few labels; or the
            features are the same for all rows.
    """
    data, sources = open_labelled(project.data, project.labelled), SourceFeatures.all_of(project, teacher)
    sources[0].store.check(dataset=data.digest, ids=data.ids)
    folder = project.probe(sources[0].source).parent
    partial = folder.with_name(f".{teacher}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        records = []
        for features in sources:
            records.append(_fit_source(features, data, settings, partial / features.source.slug))
        replace_folder(partial, folder)
    except OSError as error:
        raise explained(error, Path(error.filename or folder)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ProbeResult(teacher, tuple(records))


def _fit_source(features: SourceFeatures, data: Dataset, settings: ProbeSettings, folder: Path) -> ProbeRecord:
    reader, task = features.reader(), data.task
    reader.verify_in_background()
    splits = [data.split(number) for number in range(data.splits)]
    fits = [fit(data, number, reader, settings) for number in range(data.splits)]
    probes = [fitted.module for fitted in fits]
    paths = [folder / str(number) for number in range(data.splits)]
    for path in paths:
        make_folder(path)
    spreads = _write_outputs(probes, splits, data, reader, paths, f"probe {features.name}")
    records = []
    for number, (path, split, fitted) in enumerate(zip(paths, splits, fits, strict=True)):
        for kind in KINDS:
            fitted.module.register_buffer(f"{kind}_std", torch.from_numpy(spreads[number][kind]))
        save_module(path / MODULE, fitted.module, fitted_on(data, number, features))
        outputs = {kind: np.load(path / f"{kind}.npy", mmap_mode="r") for kind in KINDS}

        own_val, own_test = own_scores(features, data, number)

        def scores(kind: ProbeKind, rows: np.ndarray, of: dict[ProbeKind, np.ndarray] = outputs) -> dict[str, float]:
            return task.scores(np.asarray(of[kind][rows]), data.labels[rows]) if len(rows) else {}

        records.append(
            ProbeSplitRecord(
                split=number,
                train_rows=len(split.labelled),
                strength=fitted.linear.strength,
                kernel_sharpness=fitted.kernel.sharpness,
                kernel_strength=fitted.kernel.linear.strength,
                val=scores("linear", split.val),
                test=scores("linear", split.test),
                kernel_val=scores("kernel", split.val),
                kernel_test=scores("kernel", split.test),
                own_val=own_val,
                own_test=own_test,
            )
        )
    reader.verified()
    files = checksums(folder)
    record = ProbeRecord(
        source=features.name,
        data=data.manifest.files_digest,
        features=features.digest,
        metrics=task.metrics,
        splits=tuple(records),
        files=files,
    )
    record.write(folder / "probe.json")
    for family, heads in features.kept_views().items():
        _write_views(features, data, probes, splits, heads, folder / family, f"probe {features.name}@{family}")
    return record


def _write_views(
    features: SourceFeatures,
    data: Dataset,
    probes: Sequence[Probe],
    splits: Sequence[Split],
    heads: Sequence[str],
    folder: Path,
    title: str,
) -> None:
    """Write the outputs of every split's probe for views of all rows; these heads hold the views' features."""
    for view, head in enumerate(heads, 1):
        reader = features.store.reader(head)
        reader.verify_in_background()
        paths = [view_folder(folder, number, view) for number in range(data.splits)]
        for path in paths:
            make_folder(path)
        _write_outputs(probes, splits, data, reader, paths, f"{title}, view {view}")
        reader.verified()
    digests = tuple(features.store.head_digest(head) for head in heads)
    ProbeViewsRecord(views=digests, files=checksums(folder)).write(folder / VIEWS)


@dataclass(frozen=True)
class Fitted:
    """The probe of one split, without the spread of its outputs, and the fits it consists of."""

    module: Probe
    linear: Linear
    kernel: kernel_probe.KernelFit


def fit(data: Dataset, number: int, reader: Callable[[np.ndarray], np.ndarray], settings: ProbeSettings) -> Fitted:
    """Fit the probe of one split on features that `reader` gives for rows.

    Raises:
        UserError: there are no validation rows, too few labels, or the features are the same for all rows.
    """
    split, task = data.split(number), data.task
    if not len(split.val):
        raise UserError(f"{data.path}: no validation rows in split {number} to choose a probe by; set dataset.val")
    mean, std, row_norm = statistics(split.train, reader)
    if row_norm == 0:
        raise UserError("the features are the same for every training row; check the teacher and its preprocessing")
    labels, val_labels = training_labels(data, number), data.labels[split.val]
    train, val = ((reader(rows).astype(np.float32) - mean) / std for rows in (split.labelled, split.val))
    strata = task.strata(labels)
    fold_of = folds(strata, number)
    linear = task.linear.fit(train, labels, val, val_labels, settings.strengths)
    fold_weight, fold_bias = task.linear.cross_fit(train, labels, fold_of, linear.strength)
    some = _sample(strata, settings.kernel_rows, number)
    kernel = kernel_probe.fit(
        task.linear, train[some], labels[some], fold_of[some], val, val_labels,
        train[some[: settings.landmarks]], settings.sharpness, settings.kernel_strengths,
    )  # fmt: skip
    tensors = {
        "mean": mean,
        "std": std,
        "row_norm": np.float32(row_norm),
        "landmarks": kernel.landmarks,
        "sharpness": np.float32(kernel.sharpness),
        "linear_weight": np.concatenate([linear.weight[None], fold_weight]),
        "linear_bias": np.concatenate([linear.bias[None], fold_bias]),
        "linear_val_loss": np.float64(linear.val_loss),
        "kernel_weight": np.concatenate([kernel.linear.weight[None], kernel.fold_weight]),
        "kernel_bias": np.concatenate([kernel.linear.bias[None], kernel.fold_bias]),
        "kernel_val_loss": np.float64(kernel.linear.val_loss),
    }
    return Fitted(Probe(**{name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}), linear, kernel)


def training_labels(data: Dataset, number: int) -> np.ndarray:
    """The labels of a split's labelled training rows. Raises `UserError` if there are too few for a probe."""
    labels: np.ndarray = data.labels[data.split(number).labelled]
    data.task.check_training(labels, f"split {number}")
    return labels


@torch.no_grad()
def _write_outputs(
    probes: Sequence[Probe],
    splits: Sequence[Split],
    data: Dataset,
    reader: Reader,
    paths: Sequence[Path],
    title: str,
) -> list[dict[ProbeKind, np.ndarray]]:
    """Write the outputs of every split's probe for all rows, in one pass over the features.

    Returns:
        Per split and kind, the standard deviation of each output over the training rows [C]; never 0.
    """
    rows, width = len(data), len(data.task.outputs)

    trained = np.zeros((len(splits), rows), bool)
    for number, split in enumerate(splits):
        trained[number, split.labelled] = trained[number, split.unlabelled] = True
    fold_of = [folds(data.task.strata(data.labels[split.labelled]), number) for number, split in enumerate(splits)]
    moments = [{kind: np.zeros((2, width)) for kind in KINDS} for _ in splits]
    with ExitStack() as stack, progress(title, rows, "rows") as advance:

        def array(path: Path, length: int) -> BinaryIO:
            """The file of an array, written row by row. With a memory map, a full disk would kill the process."""
            file = stack.enter_context(path.open("wb"))
            header = {"descr": "<f4", "fortran_order": False, "shape": (length, width)}
            np.lib.format.write_array_header_1_0(file, header)
            return file

        arrays = [
            {
                kind: (array(path / f"{kind}.npy", rows), array(path / f"{kind}_crossfit.npy", len(split.labelled)))
                for kind in KINDS
            }
            for path, split in zip(paths, splits, strict=True)
        ]
        for start in range(0, rows, BLOCK):
            block = np.arange(start, min(start + BLOCK, rows))
            raw = torch.from_numpy(reader(block)).float()
            for number, (module, split) in enumerate(zip(probes, splits, strict=True)):
                first, last = np.searchsorted(split.labelled, [start, start + BLOCK])
                labelled = torch.from_numpy(split.labelled[first:last] - start)
                fold = torch.from_numpy(fold_of[number][first:last])
                for kind in KINDS:
                    whole, crossed = arrays[number][kind]
                    outputs = module(raw, kind).numpy()
                    whole.write(outputs.astype("<f4", copy=False).tobytes())
                    crossed.write(module(raw[labelled], kind, fold).numpy().astype("<f4", copy=False).tobytes())
                    seen = outputs[trained[number][block]].astype(np.float64)
                    moments[number][kind] += [seen.sum(0), np.square(seen).sum(0)]
            advance(len(block))
    return [
        {kind: _spread(of[kind], len(split.train)) for kind in KINDS} for of, split in zip(moments, splits, strict=True)
    ]


def _spread(moments: np.ndarray, rows: int) -> np.ndarray:
    mean, square = moments / rows
    return np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), 1e-12).astype(np.float32)


def _sample(strata: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Numbers of at most `most` rows, in random order, but at least one of every stratum."""
    order = np.random.default_rng(seed).permutation(len(strata))
    _, first = np.unique(strata[order], return_index=True)
    rest = np.delete(order, first)
    return np.concatenate([order[first], rest[: max(0, most - len(first))]])


def _line(record: ProbeRecord) -> str:
    score = mean_score((split.test or split.val for split in record.splits), record.primary.name)
    rows = "test" if record.splits[0].test else "validation"
    splits = count(len(record.splits), "split")
    line = f"probe of {record.source}: {rows} {record.primary.label} {record.primary.written(score)}, {splits}"
    own = mean_score((split.own_test or split.own_val for split in record.splits), record.primary.name)
    if own is not None:
        line += (
            f"\n{record.source} without a probe or labels: {rows} {record.primary.label} {record.primary.written(own)}"
        )
    return line
