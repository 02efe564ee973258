"""Object storage, s3://, gs:// and az://, through obstore: connections, what goes wrong in a line, and objects to read.

Credentials come from the environment, the machine's role or, for S3, the profiles of boto3; never from a URL.
"""

import glob
import io
import os
import posixpath
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import UserError
from pipeline.files import regular_size, without_secrets

SCHEMES = ("s3", "gs", "az")

PATIENCE = 60.0
"""Seconds for which a failing request is tried again."""

AT_ONCE = 32
"""Requests at the same time, where there are many small objects."""

READ_AHEAD = 8 << 20
"""Bytes that are read at a time from an object that is read from start to end."""

PAUSE = 0.2
"""Seconds before an answer that broke off is asked for again."""

NO_CREDENTIALS = ("169.254.169.254", "metadata.google.internal", "MissingAccount", "Account must be specified")
"""Where a client asks for the role of the machine when it has found no credentials, and what others say."""

DENIED = re.compile("status code: 40[13]")
"""The answers to who may not do something, or is not known."""

BEHIND_THE_END = "status code: 416"
"""The answer where a range begins behind the end of an object."""

BROKEN_OFF = "response body"
"""What obstore says of an answer that ended too early."""

CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (which needs the package boto3)",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run `gcloud auth application-default login`",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or run `az login`",
}


def is_url(place: str) -> bool:
    """Whether a place is a URL, of any scheme."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place) is not None


def is_remote(place: object) -> bool:
    """Whether a place is a URL of object storage."""
    return isinstance(place, str) and place.partition("://")[0] in SCHEMES and "://" in place


class ServiceError(UserError):
    """The service did not answer, or refused: this says nothing about the object that was asked for."""


def place(name: str) -> "Place":
    """A path of this machine, or an object.

    Raises:
        UserError: it is a URL of another kind, or one with credentials in it.
    """
    if is_remote(name):
        check(name)
        return ObjectPath(name.rstrip("/"))
    if is_url(name):
        raise UserError(
            f"{without_secrets(name)}: a URL, and a path is needed there, or a URL with s3://, gs:// or az://; "
            "download it first"
        )
    return Path(name)


def version_of(file: "Place") -> str:
    """What changes when a file is replaced or written to; empty if there is none."""
    if isinstance(file, ObjectPath):
        return file.version()
    try:
        found = file.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def size_of(file: "Place") -> int | None:
    """The size of a file in bytes, None if there is none. Raises `UserError` if it is no regular file."""
    return file.size() if isinstance(file, ObjectPath) else regular_size(file)


class ObjectPath:
    """An object, or a folder of objects, to read; its methods are those of a `Path`, and as there no file is needed.

    A folder is what objects have in common in their names, up to a slash.

    Args:
        url: such as s3://bucket/folder/file.
        about: what a listing said of it.
    """

    def __init__(self, url: str, about: Mapping[str, Any] | None = None):
        self._url, self._about = url, about
        self.scheme, _, rest = url.partition("://")
        self.bucket, _, self.key = rest.partition("/")
        self._path = PurePosixPath(self.key)

    def __str__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"ObjectPath({self._url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and self._url == other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __lt__(self, other: "ObjectPath") -> bool:
        return self._url < other._url

    def __truediv__(self, name: str) -> "ObjectPath":
        return self._sibling(posixpath.normpath(f"{self.key}/{name}").lstrip("/"))

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def suffix(self) -> str:
        return self._path.suffix

    @property
    def suffixes(self) -> list[str]:
        return self._path.suffixes

    @property
    def parent(self) -> "ObjectPath":
        return ObjectPath(self._url.rpartition("/")[0])

    def relative_to(self, folder: "ObjectPath") -> PurePosixPath:
        return self._path.relative_to(folder._path)

    def size(self) -> int | None:
        """Its bytes, None if there is no such object."""
        found = self._head()
        return None if found is None else int(found["size"])

    def version(self) -> str:
        """What the service calls its content, or its size and time; when it was listed, if it was. Empty: no object."""
        found = self._about or self._head()
        return "" if found is None else found["e_tag"] or f"{found['size']} {found['last_modified']}"

    def exists(self) -> bool:
        return self._head() is not None

    is_file = exists

    def is_dir(self) -> bool:
        """Whether objects lie below it."""
        with explained(self._url):
            return asked(lambda: next(iter(self._bucket().list(self.key or None, chunk_size=1)), None)) is not None

    def open(self, mode: str = "rb", ahead: int | None = None) -> io.BufferedReader:
        """A file of its bytes; one that is replaced meanwhile is refused.

        Args:
            mode: to read bytes.
            ahead: how many bytes are read at a time at least; `READ_AHEAD` if None.

        Raises:
            FileNotFoundError: there is no such object.
            UserError: it cannot be read; reading raises the same.
        """
        assert mode == "rb"
        found = self._head()
        if found is None:
            raise FileNotFoundError(f"{self._url}: no such object")
        return io.BufferedReader(_Reader(self, int(found["size"]), found["e_tag"]), ahead or READ_AHEAD)

    def read(self, start: int = 0, size: int | None = None, most: int | None = None) -> bytes:
        """Some of its bytes, or all.

        Args:
            start: of the first byte.
            size: how many, at most; None: all that follow.
            most: bytes that such an object can have; any number if None.

        Raises:
            FileNotFoundError: there is no such object.
            UserError: it cannot be read, or has more bytes.
        """
        if size == 0:
            return b""
        stop = None if size is None else start + size
        options = {"range": {"offset": start} if stop is None else (start, stop)} if start or stop else {}
        return fetch(self._bucket(), self.key, self._url, options, most)

    def children(self) -> list[tuple["ObjectPath", bool]]:
        """What lies in it, sorted by name, and whether that is a folder."""
        with explained(self._url):
            try:
                found = asked(lambda: self._bucket().list_with_delimiter(self.key or None))
            except FileNotFoundError as error:
                check_bucket(self._url, error)
                return []
        children = [(self._sibling(folder), True) for folder in found["common_prefixes"]]
        # Some programs write an empty object with the name of a folder.
        children += [
            (self._sibling(about["path"], about), False) for about in found["objects"] if about["path"] != self.key
        ]
        return sorted(children, key=lambda child: child[0].name)

    def matching(self) -> list["ObjectPath"]:
        """The objects that it matches as a pattern, sorted; the rules are those of `glob.glob`."""
        parts = self._path.parts
        fixed = next((at for at, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
        prefix = "/".join(parts[:fixed])
        with explained(self._url):
            found = asked(
                lambda: [
                    about
                    for some in self._bucket().list(prefix or None)
                    for about in some
                    if _matches(about["path"].split("/"), parts)
                ]
            )
        # An empty object that stands for a folder is listed without the slash at its end.
        paths = (self._sibling(about["path"], about) for about in found)
        return sorted(path for path, about in zip(paths, found, strict=True) if about["size"] or path.exists())

    def _sibling(self, key: str, about: Mapping[str, Any] | None = None) -> "ObjectPath":
        """Another object of the bucket."""
        return ObjectPath(f"{self.scheme}://{self.bucket}/{key}", about)

    def _bucket(self) -> Any:
        return _bucket(f"{self.scheme}://{self.bucket}")

    def _head(self) -> Any:
        with explained(self._url):
            try:
                return self._bucket().head(self.key)
            except FileNotFoundError:
                self.is_dir()  # an answer to HEAD does not say that the bucket is missing
                return None


Place = Path | ObjectPath
"""A file or a folder, of this machine or on object storage."""


class _Reader(io.RawIOBase):
    """The bytes of an object as it was when it was opened.

    Args:
        path: the object.
        size: of it.
        version: what the service calls it: another one is another object.
    """

    def __init__(self, path: ObjectPath, size: int, version: str | None):
        self._path, self._size, self._version, self._at = path, size, version, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._size - self._at, READ_AHEAD)
        if size <= 0:
            return 0
        options = {"range": (self._at, self._at + size), "if_match": self._version}
        found = fetch(self._path._bucket(), self._path.key, str(self._path), options)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def asked(listing: Callable[[], Any]) -> Any:
    """A listing, to its end. One that breaks off is asked for again, which obstore does for one that does not begin."""
    from obstore.exceptions import BaseError

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return listing()
        except BaseError as error:
            if BROKEN_OFF not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE)


def fetch(store: Any, key: str, name: str, options: Mapping[str, Any], most: int | None = None) -> bytes:
    """Bytes of an object; see `fetched`."""
    return fetched(store, key, name, options, most)[0]


def fetched(
    store: Any, key: str, name: str, options: Mapping[str, Any], most: int | None = None
) -> tuple[bytes, Mapping[str, Any]]:
    """Bytes of an object, and what the service says of it.

    An answer that breaks off is asked for again, which obstore does for one that does not begin.

    Args:
        store: of obstore.
        key: of the object in it.
        name: its URL, for messages.
        options: `range`, and `if_match` with the version that it must have.
        most: bytes that such an object can have; any number if None.

    Raises:
        FileNotFoundError: there is no such object.
        UserError: it cannot be read, has more bytes, or another version.
    """
    from obstore.exceptions import BaseError, PreconditionError

    deadline = time.monotonic() + PATIENCE
    with explained(name):
        while True:
            try:
                found = store.get(key, options=options)
            except (FileNotFoundError, PreconditionError) as error:
                check_bucket(name, error)
                if "if_match" not in options:
                    raise
                raise UserError(f"{name}: was replaced or deleted while it was read; run it again") from None
            except BaseError as error:
                if BEHIND_THE_END in str(error):
                    return b"", {}
                raise
            if most is not None and (size := found.meta["size"]) > most:
                raise UserError(f"{name}: has {size:,} bytes, and no such file has more than {most:,}")
            try:
                return bytes(found.bytes()), found.meta
            except BaseError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE)


def connect(url: str) -> Any:
    """The objects below a URL, as a store of obstore.

    Raises:
        UserError: obstore is not installed, or this is no URL of object storage without credentials in it.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ModuleNotFoundError:
        raise UserError(
            f"{url}: the package obstore is not installed; run pip install 'aft-pipeline[object]'"
        ) from None
    scheme = check(url)
    if odd := next((mark for mark in "?#%" if mark in url), None):  # a parser of URLs would open another place
        raise UserError(f"{url}: no store can be there, because of the {odd}; use another name")
    retry: Any = {"retry_timeout": timedelta(seconds=PATIENCE)}
    client: Any = {"connect_timeout": "5s", "timeout": "120s", "allow_http": _endpoint().startswith("http://")}
    try:
        return from_url(url, retry_config=retry, client_options=client, **_from_profile(scheme))
    except (BaseError, ValueError) as error:
        if any(sign in str(error) for sign in NO_CREDENTIALS):
            raise UserError(f"{url}: no credentials; {CREDENTIALS[scheme]}") from None
        raise UserError(f"{url}: {_reason(error)}") from None


def check(url: str) -> str:
    """The scheme of a URL. Raises `UserError` if it has credentials in it, or no bucket."""
    parts = urlsplit(url)
    if parts.username or parts.password or "=" in parts.query:  # without it, ? is a pattern's or a name's
        raise UserError(
            f"{parts.scheme}://{parts.hostname}: a URL with credentials would end up in logs; "
            f"{CREDENTIALS[parts.scheme]}"
        )
    if not parts.netloc or "//" in parts.path:
        raise UserError(f"{url}: write {parts.scheme}://BUCKET/PREFIX")
    return parts.scheme


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns what obstore raises into one line for the user.

    A file that is not there stays `FileNotFoundError`, and a condition that does not hold `PreconditionError`.
    """
    from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError

    try:
        yield
    except (FileNotFoundError, PreconditionError):
        raise
    except (BaseError, OSError, ValueError) as error:
        text = str(error)
        check_bucket(name, error)
        # Of a listing, obstore says no more than the status.
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or DENIED.search(text):
            raise ServiceError(
                f"{name}: access is denied ({_reason(error)}); check the credentials and what they allow"
            ) from None
        if any(sign in text for sign in NO_CREDENTIALS):
            raise ServiceError(f"{name}: no credentials; {CREDENTIALS[urlsplit(name).scheme]}") from None
        raise ServiceError(f"{name}: {_reason(error)}; check the URL and the network, and run it again") from None


def check_bucket(name: str, error: Exception) -> None:
    """Raise `UserError` if an answer says that the bucket or container is not there, rather than an object."""
    if any(sign in str(error) for sign in ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")):
        bucket = urlsplit(name).netloc
        raise UserError(f"{name}: there is no bucket {bucket}; create it, or correct the URL") from None


@cache
def _bucket(url: str) -> Any:
    return connect(url)


def _matches(parts: list[str], pattern: tuple[str, ...]) -> bool:
    if not pattern or not parts:
        return not parts and all(part == "**" for part in pattern)
    first, *rest = pattern
    if first == "**":
        visible = next((at for at, part in enumerate(parts) if part.startswith(".")), len(parts))
        return any(_matches(parts[skipped:], tuple(rest)) for skipped in range(visible + 1))
    hidden = parts[0].startswith(".") and not first.startswith(".")
    return not hidden and fnmatchcase(parts[0], first) and _matches(parts[1:], tuple(rest))


def _endpoint() -> str:
    """The address of a service that speaks S3 but is not Amazon's, as all its clients have it."""
    return next((os.environ[name] for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT") if
                 name in os.environ), "")  # fmt: skip


def _from_profile(scheme: str) -> dict[str, Any]:
    """Credentials for S3 from a profile, which obstore leaves to boto3; nothing where the environment has a key."""
    profiles = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    if scheme != "s3" or "AWS_ACCESS_KEY_ID" in os.environ or not ("AWS_PROFILE" in os.environ or profiles.is_file()):
        return {}
    try:
        from boto3 import Session
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ModuleNotFoundError:
        raise UserError(
            "s3: there is a profile of AWS, and the package boto3, which reads it, is not installed; run pip install "
            "boto3, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    session = Session()
    return {"credential_provider": Boto3CredentialProvider(session), "region": session.region_name or "us-east-1"}


def _reason(error: Exception) -> str:
    """What a service answered, or what obstore says, in a line that can be read: it may have pages of both."""
    text = str(error)
    if status := re.search(r"status code: (\d+[\w ]*)", text):
        request, code = re.search(r"performing ([A-Z]+)", text), re.search(r"<Code>(\w+)</Code>", text)
        return f"the service answers {status[1].strip()}{f' to a {request[1]}' if request else ''}" + (
            f" ({code[1]})" if code else ""
        )
    if "error sending request" in text:
        return "the service does not answer"
    first = " ".join(text.partition("\n\nDebug source")[0].split())
    return first if len(first) <= 200 else f"{first[:200]} ..."
