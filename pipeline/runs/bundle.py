"""Bundles: one small file per run, with digests of everything that its result depends on.

A run may use several teachers, and DVC cannot expand a list into dependencies. So a run depends on its bundle: digests
of its teachers' features and probes, and of the plug-ins that it uses. If a bundle does not change, for example because
a new teacher is not used by the run, DVC does not train the run again. Only metadata is read, and no torch is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.code import Code, plugins_of_run
from pipeline.data import Dataset
from pipeline.errors import UserError, count
from pipeline.files import file_exists
from pipeline.params import Params
from pipeline.project import Project
from pipeline.records import BundleRecord, ProbeRecord
from pipeline.runs.config import Run, open_features, read_run, run_views
from pipeline.sources import Source
from pipeline.store import SourceFeatures


@dataclass(frozen=True)
class Bundles:
    """What `join` returns: the runs that it wrote bundles for, and which of the bundles changed."""

    runs: list[str]
    changed: list[str]

    def __str__(self) -> str:
        return f"joined {count(len(self.runs), 'run')}, {len(self.changed)} changed"


def join(params: Params, project: Project = Project()) -> Bundles:
    """Write the bundle of every run of params.yaml, and remove bundles of other runs.

    Raises:
        UserError: a run names something that does not exist, or the stores of its teachers are missing, incomplete or
            of another dataset, or lack a head that the run reads.
    """
    data, code = Dataset.open(project.data), Code()
    names = list(params.section("runs"))
    changed = []
    for name in names:
        run = read_run(params, name)
        views = run_views(params, name, run)
        seen = views.records(data) if views else []
        bundle = BundleRecord(
            run=name,
            dataset=data.digest,
            sources={
                source.name: _digests(features, seen) | _probe(project, source, run)
                for source, features in open_features(run, project, data).items()
            },
            code=code.digest(*plugins_of_run(params, name)),
        )
        path = project.bundle(name)
        before = path.read_bytes() if path.is_file() else None
        bundle.write(path)
        if path.read_bytes() != before:
            changed.append(name)
    for path in project.bundle("any").parent.glob("*.json"):
        if path.stem not in names:
            path.unlink()
    return Bundles(names, changed)


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
