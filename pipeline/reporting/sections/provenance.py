"""Provenance: commit, device and versions of the trainings, and the settings."""

import json
from typing import Any

import yaml

from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.text import listed


def context(inputs: ReportInputs) -> dict[str, Any]:
    """Facts for each origin, which several runs may share, and params.yaml."""
    origins: dict[str, list[str]] = {}
    for outcome in inputs.outcomes:
        if log := outcome.log:
            key = json.dumps({"provenance": log.provenance, "device": log.device}, sort_keys=True)
            origins.setdefault(key, []).append(outcome.name)
    unknown = [outcome.name for outcome in inputs.outcomes if outcome.log is None]
    return {
        "origins": [_facts(json.loads(origin), names) for origin, names in origins.items()],
        "unknown": listed(unknown),
        "source": inputs.params.source,
        "settings": yaml.safe_dump(inputs.params.values, sort_keys=False, allow_unicode=True, width=110),
    }


def _facts(origin: dict[str, Any], names: list[str]) -> list[tuple[str, str]]:
    provenance = origin["provenance"]
    changed = ", with uncommitted changes" if provenance.get("changed") else ""
    versions = ", ".join(f"{package} {version}" for package, version in provenance.get("versions", {}).items())
    return [
        ("runs", listed(names)),
        ("commit", f"{provenance['commit']}{changed}" if provenance.get("commit") else "not in a git repository"),
        ("device", origin["device"] or "not recorded"),
        ("versions", versions or "not recorded"),
    ]
