"""Between the stores and the runs: one small file per run that says exactly what the run stands on.

A run may use several teachers, and DVC cannot make a list of them into dependencies. So a run depends on its bundle:
the digests of just its teachers' stores and probes, and of just the plug-in files it uses. A bundle that comes out the
same byte for byte, because a teacher was added that the run does not use, leaves the run alone. Reads metadata only,
without torch.
"""

import ast
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.plugins import LIBRARY
from pipeline.provenance import digest_files
from pipeline.runs import config
from pipeline.store import FeatureStore


@dataclass(frozen=True)
class Bundles:
    """What `join` returns: the runs it wrote a bundle for, and which of those bundles changed."""

    runs: list[str]
    changed: list[str]

    def __str__(self) -> str:
        return f"joined {len(self.runs)} runs, {len(self.changed)} changed"


def join(params: Params, root: Path = Path(".")) -> Bundles:
    """Write `<root>/bundles/<run>.json` for every run of params.yaml, and remove those of runs that are gone.

    Raises:
        UserError: a run names what does not exist, or its teachers' stores are missing, incomplete or of another
            dataset, or lack a head that a method reads.
    """
    data = Dataset.open(root / "data")
    out = root / "bundles"
    out.mkdir(parents=True, exist_ok=True)
    teachers: dict[str, dict[str, str]] = {}
    changed = []
    names = list(params.section("runs"))
    for name in names:
        run = config.read(params, name)
        for teacher in run.teachers:
            teachers.setdefault(teacher, {}) or teachers[teacher].update(_teacher(root, teacher, data))
        family = params.section(f"students.{run.student}").get("family")
        bundle = {
            "run": name,
            "dataset": data.digest,
            "teachers": {teacher: teachers[teacher] | _heads(root, run, teacher, data) for teacher in run.teachers},
            "code": dict(code([f"students/{family}", *(f"methods/{term.name}" for term in run.methods)])),
        }
        path = out / f"{name}.json"
        text = json.dumps(bundle, indent=1, sort_keys=True) + "\n"
        if not path.is_file() or path.read_text() != text:
            changed.append(name)
            partial = path.with_suffix(".partial")
            partial.write_text(text)
            partial.replace(path)
    for path in out.glob("*.json"):
        if path.stem not in names:
            path.unlink()
    return Bundles(names, changed)


def _teacher(root: Path, name: str, data: Dataset) -> dict[str, Any]:
    store = FeatureStore.open(root / "features" / f"{name}.zarr")
    store.check(dataset=data.digest, ids=data.ids)
    probe = root / "probes" / f"{name}.safetensors"
    if not probe.is_file():
        raise UserError(f"{probe}: no probe of this teacher; run `aft probe {name}`")
    # Of the head with the features: another head beside it changes nothing for a run whose methods do not read it.
    content = store.head_digest(store.head_name())
    return {"recipe": store.recipe_digest, "content": content, "probe": digest_files(probe)}


def _heads(root: Path, run: config.Run, name: str, data: Dataset) -> dict[str, str]:
    """Digests of what the run's methods read of a teacher's store beside the features."""
    if not run.heads:
        return {}
    store = FeatureStore.open(root / "features" / f"{name}.zarr")
    config.check_heads(run, name, store, len(data.classes))
    return {head: store.head_digest(head) for head in run.heads}


def code(modules: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Digests of plug-ins, and of the plug-ins that they are made of."""
    ahead, seen = list(modules), set()
    while ahead:
        module = ahead.pop()
        path = LIBRARY / f"{module}.py"
        if module not in seen and path.is_file():
            seen.add(module)
            yield f"pipeline/{module}.py", digest_files(path)
            kind = module.partition("/")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module == f"pipeline.{kind}":
                    ahead += [f"{kind}/{alias.name}" for alias in node.names]
