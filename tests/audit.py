"""What `pip-audit` found, in lines: `python -m tests.audit FOUND.json`, part of `make audit`."""

import json
import sys
from pathlib import Path
from typing import Any


def lines(packages: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """A line for each known vulnerability and one about all; and whether there is one.

    Args:
        packages: `dependencies` of pip-audit's JSON. Those that the package index does not know have a `skip_reason`.
    """
    audited = [package for package in packages if "vulns" in package]
    found = [
        f"{package['name']} {package['version']}: {known['id']}, fixed in {', '.join(known['fix_versions']) or 'none'}"
        for package in audited
        for known in package["vulns"]
    ]
    if not audited:
        return ["audit: NOTHING was audited: this package index has no vulnerability data"], False
    skipped = len(packages) - len(audited)
    return [*found, f"audit: {len(found)} in {len(audited)} packages; {skipped} could not be audited"], bool(found)


if __name__ == "__main__":
    said, vulnerable = lines(json.loads(Path(sys.argv[1]).read_text())["dependencies"])
    print("\n".join(said))
    sys.exit(vulnerable)
