"""The exception for problems that the user can fix, and helpers for its messages."""

import difflib
import errno
import os
import re
from collections.abc import Sequence
from operator import index
from typing import Any, SupportsIndex


class UserError(Exception):
    """Something outside the program is wrong, and the user can fix it.

    The message is one line: what is wrong, where, and what to do. Every command prints it without a traceback and
    exits with code 2; any other exception is a bug and keeps its traceback.
    """


_SYSTEM = {
    errno.ENOSPC: "the disk is full; free some space and run it again, what was finished is kept",
    errno.EDQUOT: "the disk is full (your quota); free some space and run it again, what was finished is kept",
    errno.EFBIG: "a file as large as this is not allowed; raise `ulimit -f`, or use another file system",
    errno.EROFS: "the file system is read-only; use another folder, or mount it for writing",
    errno.EACCES: "no permission; check who owns the file and its folder",
    errno.EPERM: "not permitted; check who owns the file and its folder, and whether it is locked against changes",
    errno.ENOENT: "no such file; run the command that writes it",
    errno.EISDIR: "is a folder, and a file is needed there; move it away",
    errno.ENOTDIR: "a part of this path is a file, and a folder is needed there; move it away",
    errno.EEXIST: "is there already; move it away",
    errno.ENOTEMPTY: "is a folder that is not empty; move it away",
    errno.ELOOP: "a link of this path leads to itself; remove it",
    errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
    errno.EMFILE: "too many open files; raise `ulimit -n`",
    errno.ENFILE: "too many open files on this machine; close other programs",
    errno.EIO: "the disk reports an error; check it",
}
"""The meaning of an error of the operating system, and what to do."""


def system_error(error: OSError, path: Any = None) -> UserError:
    """An error of the operating system, in one line.

    Args:
        error: that was raised.
        path: of the file; the one that the error names if None.
    """
    path = path or error.filename2 or error.filename
    where = f"{os.fsdecode(path) if isinstance(path, bytes) else path}: " if path not in (None, -1) else ""
    meaning = _SYSTEM.get(error.errno or 0, f"{error.strerror}; see to that, and run it again")
    return UserError(where + meaning)


def behind(error: BaseException) -> OSError | None:
    """The error of the operating system behind that of a library in Rust, such as safetensors, by its number."""
    number, path = (re.search(pattern, str(error)) for pattern in (r"\(os error (\d+)\)", r'at path "([^"]+)"'))
    if number is None or isinstance(error, UserError):
        return None
    return OSError(int(number[1]), os.strerror(int(number[1])), path and path[1])


def printable(text: str) -> str:
    """Text for a terminal, with control characters, which could move the cursor or change colours, as escapes."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


LISTED, LETTERS = 40, 60
"""The most names of a list, and letters of a name, in a message: those in a file from elsewhere may be any number."""


def listed(names: Sequence[str]) -> str:
    """Names with commas, as far as they fit into a line; `none` if there are none."""
    shown = [name if len(name) <= LETTERS else f"{name[:LETTERS]}..." for name in names[:LISTED]]
    more = [f"... ({len(names) - LISTED:,} more)"] if len(names) > LISTED else []
    return ", ".join(shown + more) if names else "none"


def suggestion(name: str, names: Sequence[str]) -> str:
    """A suggestion of the closest of `names`, such as ` (did you mean `aft`?)`; empty if none is close."""
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def count(number: SupportsIndex, noun: str) -> str:
    """A number and its noun, in the singular or plural: `1 seed`, `12,000 rows`, `2 classes`."""
    ending = "" if index(number) == 1 else "es" if noun.endswith("s") else "s"
    return f"{index(number):,} {noun}{ending}"
