"""Where the content of a row lies: a file or object, a part of one, or a URL. It is read there, not copied."""

import os
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import UserError, system_error
from pipeline.files import open_regular
from pipeline.objects import ObjectPath, is_remote, is_url
from pipeline.project import Project


class Location(NamedTuple):
    """Where a content lies.

    Attributes:
        file: a path, or a URL; of object storage, or http.
        offset: of its first byte in the file.
        size: its bytes; None: to the end of the file.
    """

    file: str
    offset: int = 0
    size: int | None = None

    def within(self, root: Path) -> "Location":
        """The same, relative to a folder if it is in it, so that both can be moved together; else absolute."""
        if is_url(self.file):
            return self
        path = Path(os.path.abspath(self.file))
        base = Path(os.path.abspath(root))
        return self._replace(file=(path.relative_to(base) if path.is_relative_to(base) else path).as_posix())

    def read(self, root: Path) -> bytes:
        """The content; relative to a folder as `within` made it.

        Raises:
            UserError: it is not there, or cannot be read.
        """
        if is_url(self.file) and not is_remote(self.file):
            content: bytes
            content, problem = _downloads().read(self.file)
            if problem:
                raise UserError(f"{self.file}: {problem}")
            return content
        path = ObjectPath(self.file) if is_remote(self.file) else root / self.file
        try:
            if isinstance(path, ObjectPath):
                return path.read(self.offset, self.size)
            with os.fdopen(open_regular(path), "rb") as file:
                file.seek(self.offset)
                return file.read(-1 if self.size is None else self.size)
        except FileNotFoundError:
            raise UserError(
                f"{path}: not there, and the dataset refers to it; put it back, or run `aft prepare`"
            ) from None
        except OSError as error:
            raise system_error(error, path) from None


@cache
def _downloads() -> Any:
    from pipeline.datasets._downloads import Downloads  # with requests, which few need

    return Downloads(Project().downloads)
