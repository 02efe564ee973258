"""Probes for other numbers of labels than the prepared dataset has, for sweeps: fitted once, and kept as a cache.

.aft/labels/<labelled>/<teacher>/       as probes/<teacher>/
.aft/labels/<labelled>/<teacher>.json   what they were fitted on, and how
"""

import json
from math import inf
from pathlib import Path
from typing import Any

from pipeline.code import Code
from pipeline.data import open_labelled
from pipeline.files import file_exists, write_atomically
from pipeline.locks import Lock
from pipeline.probing.probes import ProbeSettings, probe
from pipeline.probing.saved import fitted_on
from pipeline.project import Project
from pipeline.store import SourceFeatures


def probe_once(teacher: str, settings: ProbeSettings, project: Project) -> bool:
    """Fit the probes of a teacher for a project's number of labels, unless they are there; whether it had to.

    Raises:
        UserError: as `probe`; or there are not so many labels.
    """
    path = _path(teacher, project)
    lock = Lock(project.lock("labels", str(project.labelled)))
    lock.acquire(patience=inf)
    try:
        wanted = _inputs(teacher, settings, project)
        if _holds(path, wanted):
            return False
        path.unlink(missing_ok=True)
        probe(teacher, settings, project)
        write_atomically(path, wanted.encode())
        return True
    finally:
        lock.release()


def probed(teacher: str, settings: ProbeSettings, project: Project) -> bool:
    """Whether `probe_once` would find the probes of a teacher. Writes nothing.

    Raises:
        UserError: there are not so many labels.
    """
    return _holds(_path(teacher, project), _inputs(teacher, settings, project))


def _path(teacher: str, project: Project) -> Path:
    return project.probes / f"{teacher}.json"


def _holds(path: Path, content: str) -> bool:
    return file_exists(path) and path.read_text(encoding="utf-8") == content


def _inputs(teacher: str, settings: ProbeSettings, project: Project) -> str:
    """All that the probes depend on, as JSON."""
    data = open_labelled(project.data, project.labelled)
    sources = SourceFeatures.all_of(project, teacher)
    found: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "code": Code().digest("pipeline.probing.probes", f"pipeline.tasks.{data.task.name}"),
        "data": data.manifest.files_digest,
        "fitted_on": {
            features.source.name: [fitted_on(data, split, features) for split in range(data.splits)]
            for features in sources
        },
        "views": {
            features.source.name: {
                family: [features.store.head_digest(head) for head in heads]
                for family, heads in features.kept_views().items()
            }
            for features in sources
        },
    }
    return json.dumps(found, indent=1, sort_keys=True) + "\n"
