"""Disks with faults: file systems in memory, and files that this process may not touch."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """Mount a file system in memory; yields whether this machine permits it."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = mount("-t", "tmpfs", "aft-test", folder)
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(*arguments: object) -> bool:
    """Mount, or change what is mounted; whether it was permitted."""
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode == 0


def fill(folder: Path, what: str, share: float, needed: int) -> None:
    """Leave so large a share of the `needed` bytes or files free on a mounted disk."""
    used = os.statvfs(folder)
    if what == "bytes":
        size = (used.f_blocks - used.f_bfree) * used.f_frsize + int(share * needed)
        assert mount("-o", f"remount,size={max(size, 4096)}", folder)
    else:
        assert mount("-o", f"remount,nr_inodes={used.f_files - used.f_ffree + int(share * needed)}", folder)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Inside, permissions count for this process, even if it is root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
