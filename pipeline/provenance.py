"""The origin of results: digests of files and records, library versions, the commit."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.files import open_regular

BLOCK = 1 << 22


def digest_of(record: Any) -> str:
    """A short stable name for JSON data: sha256 of its canonical JSON, 32 hex digits.

    Equal records give equal digests, whatever the order of their keys. NaN is refused, because it is not JSON.
    """
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def digest_files(root: Path, names: Sequence[str] | None = None) -> str:
    """One digest over files below `root`: their relative names and bytes, 32 hex digits.

    Args:
        root: a folder, or one file.
        names: the files to read, relative to the folder; all of them if None.
    """
    hasher = hashlib.sha256()
    if root.is_file():
        files = [(root.name, root)]
    else:
        found = names if names is not None else [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
        files = [(name, root / name) for name in sorted(found)]
    for name, path in files:
        hasher.update(f"{len(name.encode())}:{name}:{path.stat().st_size}:".encode())
        with os.fdopen(open_regular(path), "rb") as file:
            while block := file.read(BLOCK):
                hasher.update(block)
    return hasher.hexdigest()[:32]


OF_FEATURES = (
    "aft-pipeline", "torch", "timm", "transformers", "torchvision", "tokenizers", "onnxruntime", "pillow", "numpy",
)  # fmt: skip
"""Packages that a teacher's features may depend on."""


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of packages, and Python's; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit(folder: Path = Path(".")) -> dict[str, Any]:
    """The git commit of a folder and whether tracked files differ from it; empty outside a repository."""
    try:
        head, status = (
            subprocess.run(["git", "-C", str(folder), *what], capture_output=True, text=True, check=True)
            for what in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": head.stdout.strip(), "changed": bool(status.stdout.strip())}
