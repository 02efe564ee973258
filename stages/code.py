"""Stage `code`: params.yaml and the library -> code.json, a digest of the code that each stage depends on."""

import json
from hashlib import sha256
from typing import Any

from stages import command


def main(params: command.File = command.PARAMS, overrides: command.Set = None) -> None:
    """Check params.yaml; write digests of the code.

    For DVC, which runs it first and every time: a stage runs again when its digest changes.
    """
    from pipeline.code import digests
    from pipeline.files import write_atomically

    loaded, path = command.settings(params, overrides), command.PROJECT.code
    settings = {"params": sha256(repr(loaded.values).encode()).hexdigest()[:32]}
    before = _read()
    # Checking imports every settings class, and so torch. Where neither settings nor code have changed, it was done.
    if before.get("params") == settings["params"] and before == settings | digests(loaded):
        return
    from pipeline.checks import check_params

    check_params(loaded)
    write_atomically(path, json.dumps(settings | digests(loaded), indent=1) + "\n")


def _read() -> dict[str, Any]:
    try:
        found = json.loads(command.PROJECT.code.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


if __name__ == "__main__":
    command.single(main)
