"""Stores on object storage as a part of a project: a small file in the project's folder stands for each."""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import read_regular, write_atomically
from pipeline.objects import is_remote

POINTER = "remote.json"
"""The name of that file, in a folder without other files."""

MOST = 1 << 16
"""The most bytes of such a file."""


@dataclass(frozen=True)
class Pointer:
    """What a folder stands for.

    Attributes:
        url: of the store.
        content: its `content_digest` when it was complete, None before.
    """

    url: str
    content: str | None

    @classmethod
    def of(cls, folder: Path) -> "Pointer | None":
        """Of a folder, None if it stands for nothing. Raises `UserError` if the file is damaged."""
        path = folder / POINTER
        try:
            record = json.loads(read_regular(path, MOST))
            found = cls(record["url"], record["content"])
            if not is_remote(found.url) or not (found.content is None or isinstance(found.content, str)):
                raise ValueError
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{path}: damaged or changed by hand; delete it and run the extraction again") from None
        return found

    def write(self, folder: Path) -> None:
        """Have a folder stand for this."""
        write_atomically(folder / POINTER, json.dumps({"url": self.url, "content": self.content}, indent=2) + "\n")


def stand_for(folder: Path, url: str | None) -> None:
    """Have a folder of the project stand for a store that is about to be written; or be one itself, if `url` is None.

    Raises:
        UserError: the folder holds a store.
    """
    current = Pointer.of(folder)
    if url is None:
        if current is not None:
            (folder / POINTER).unlink()
    elif current is None or current.url != url:
        if (folder / "zarr.json").exists():
            raise UserError(
                f"{folder}: holds a store, and `features` in params.yaml says {url}; copy it there by "
                f"`aft features copy {folder} {url}` and delete the folder, or delete it alone"
            )
        Pointer(url, None).write(folder)
