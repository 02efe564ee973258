"""Stage `code`: params.yaml and the library -> digests/, the digests of the code that each stage depends on."""

import json
from hashlib import sha256
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import TEXT_BYTES, read_regular
from stages import command, entry


def main(params: command.File = command.PARAMS, overrides: command.Set = None) -> None:
    """Check params.yaml; write digests of the code.

    DVC always runs this first: a stage runs again when its digest changes.
    """
    from pipeline.code import digests

    loaded, folder = command.settings(params, overrides), command.PROJECT.digests
    checked = sha256(repr(loaded.values).encode()).hexdigest()[:32]
    # Checking imports torch, with the settings classes. It is skipped if neither settings nor code have changed.
    if _read(folder / "params.json") == checked and _stored(folder) == digests(loaded) | {"params": checked}:
        return
    from pipeline.checks import check_params

    check_params(loaded)
    loaded.check_for_dvc()
    current = digests(loaded)
    for name in _stored(folder).keys() - current:
        (folder / f"{name}.json").unlink()
    # Written last: it means that all others exist.
    for name, digest in [*current.items(), ("params", checked)]:
        if _read(folder / f"{name}.json") != digest:
            command.write_digest(folder / f"{name}.json", digest)


def _stored(folder: Path) -> dict[str, str | None]:
    return {path.relative_to(folder).with_suffix("").as_posix(): _read(path) for path in folder.rglob("*.json")}


def _read(path: Path) -> str | None:
    """The digest in a file; None if it cannot be read."""
    try:
        return str(json.loads(read_regular(path, TEXT_BYTES))["digest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError):
        return None


if __name__ == "__main__":
    entry.single(main)
