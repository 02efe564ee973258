"""Bundles: one small file per run, with digests of everything that its result depends on.

A run may use several teachers, and DVC cannot expand a list into dependencies. So a run depends on its bundle: digests
of its teachers' features and probes, and of the plug-ins that it uses. If a bundle does not change, for example because
a new teacher is not used by the run, DVC does not train the run again. Only metadata is read, and no torch is needed.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.code import Code, plugins_of_run
from pipeline.data import Dataset
from pipeline.errors import UserError, count
from pipeline.files import file_exists
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import BundleRecord, ProbeRecord
from pipeline.runs.config import Run, open_features, read_run, run_views
from pipeline.runs.points import NAME, every_point, sweep_names
from pipeline.sources import Source
from pipeline.store import SourceFeatures


@dataclass(frozen=True)
class Bundles:
    """What `join` returns: the runs and sweeps that it wrote bundles for, and which of the bundles changed."""

    runs: list[str]
    sweeps: list[str]
    changed: list[str]

    def __str__(self) -> str:
        sweeps = f" and {count(len(self.sweeps), 'sweep')}" if self.sweeps else ""
        return f"joined {count(len(self.runs), 'run')}{sweeps}, {len(self.changed)} changed"


def join(params: Params, project: Project = Project()) -> Bundles:
    """Write the bundle of every run and every sweep of params.yaml, and remove other bundles.

    Raises:
        UserError: a run names something that does not exist, or the stores of its teachers are missing, incomplete or
            of another dataset, or lack a head that the run reads.
    """
    data, code = Dataset.open(project.data), Code()
    names, sweeps = list(params.section("runs")), sweep_names(params)
    changed = []
    for name in names:
        sources, plugins = _of_run(params, name, project, data)
        changed += _write(project.bundle(name), name, data, sources, code.digest(*plugins))
    for name in sweeps:
        sources, plugins = {}, []
        for point in every_point(params, name):
            more, others = _of_run(point.params, NAME, project, data)
            sources, plugins = sources | more, plugins + others
        changed += _write(project.sweep_bundle(name), name, data, sources, code.digest(*sorted(set(plugins))))
    for path, known in ((project.bundle("any"), names), (project.sweep_bundle("any"), sweeps)):
        for found in path.parent.glob("*.json"):
            if found.stem not in known:
                found.unlink()
    return Bundles(names, list(sweeps), changed)


def _of_run(params: Params, name: str, project: Project, data: Dataset) -> tuple[dict[str, dict[str, str]], list[str]]:
    """What a run depends on: digests by source, and the modules of its plug-ins."""
    run = read_run(params, name)
    views = run_views(params, name, run)
    seen = views.records(data) if views and run.teacher == "store" else []
    sources = {
        source.name: _digests(features, seen) | _probe(project, source, run)
        for source, features in open_features(run, project, data).items()
    }
    return sources, plugins_of_run(params, name)


def _write(path: Path, name: str, data: Dataset, sources: dict[str, dict[str, str]], code: str) -> list[str]:
    """Write a bundle; its name, if it changed."""
    before = None
    with suppress(UserError):
        before = BundleRecord.read(path)
    record = BundleRecord(run=name, dataset=data.digest, sources=sources, code=code)
    record.write(path)
    return [] if record == before else [name]


def _digests(features: SourceFeatures, seen: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Digests of the features of a source: clean rows, and views. Other heads of the store are not included."""
    store = features.store
    found = {"recipe": store.recipe_digest, "content": features.digest}
    return found | {head: store.head_digest(head) for head in features.check_views(seen)}


def _probe(project: Project, source: Source, run: Run) -> dict[str, str]:
    """The digest of the probes of a source; a teacher's own outputs have no probe."""
    return {"probe": probe_digest(project, source)} if source in run.sources else {}


def probe_digest(project: Project, source: Source) -> str:
    """The digest of a source's probes: that of their record, which has their scores and the checksums of their files.

    Raises:
        UserError: there is no probe, or its record is damaged.
    """
    path = project.probe(source) / "probe.json"
    if not file_exists(path):
        raise UserError(f"{path.parent}: no probe of `{source}`; run `aft probe {source.teacher}`")
    return ProbeRecord.read(path, source.teacher).digest
