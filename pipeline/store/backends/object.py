"""Object storage, to read and write: s3://, gs:// and az://, through obstore.

There are no folders and no locks there, and nothing can be renamed. But an object appears as a whole, listings are
complete, and a write can be made conditional: on there being no such object, or on its version. A move is a copy and a
deletion, and a claim is a lease, which rests on these conditions. Services that ignore conditions are refused.

Credentials come from the environment, the machine's role or, for S3, the profiles of boto3; never from a URL.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from pipeline.checksum import checksum
from pipeline.errors import UserError
from pipeline.store.backends import JSON_BYTES, Backend, Bytes, WritableBackend
from pipeline.store.format import LOCKS, REPLACED
from pipeline.store.leases import Found, Lease, Version
from pipeline.store.remote import SCHEMES as SCHEMES

BLOCK = 8 << 20
"""Bytes of a part of a large object."""

READ_BLOCK = 1 << 20

AT_ONCE = 32
"""Requests at the same time, where there are many small objects."""

PATIENCE = 60.0
"""Seconds for which a failing request is tried again."""


class ObjectBackend(WritableBackend):
    """Objects below a prefix.

    Args:
        store: of obstore.
        name: its URL, for messages.
        below: the prefix inside of `store`; it ends with a slash unless it is empty.
        clock: of the service; the backends of a store share it.
    """

    def __init__(self, store: Any, name: str, below: str = "", clock: "Clock | None" = None):
        self.name = name
        self._store, self._below = store, below
        self._clock = clock or Clock()

    def read(self, file: str) -> bytes | None:
        with self._explained():
            try:
                found = self._store.get(self._below + file)
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None
            size = found.meta["size"]
            if file.endswith(".json") and size > JSON_BYTES:
                raise UserError(f"{self.name}/{file}: has {size:,} bytes, which is too large for such a file")
            return bytes(found.bytes())

    def size(self, file: str) -> int | None:
        with self._explained():
            try:
                return int(self._store.head(self._below + file)["size"])
            except FileNotFoundError:
                return None

    def blocks(self, file: str) -> Iterator[bytes]:
        with self._explained():
            for part in self._store.get(self._below + file).stream(min_chunk_size=READ_BLOCK):
                view = memoryview(part)
                yield from (bytes(view[at : at + READ_BLOCK]) for at in range(0, len(view), READ_BLOCK))

    def files(self, below: str = "") -> list[str]:
        return sorted(self.sizes(below))

    def sizes(self, below: str = "") -> dict[str, int]:
        """The sizes of all files in bytes, or of those below one folder, by name."""
        prefix = f"{self._below}{below}".rstrip("/")
        with self._explained():
            listed = self._store.list(prefix or None)
            return {about["path"].removeprefix(self._below): about["size"] for part in listed for about in part}

    def ages(self, below: str) -> dict[str, float]:
        """How many seconds ago each file in a folder was written."""
        with self._explained():
            listed = [about for part in self._store.list(f"{self._below}{below}") for about in part]
            return {about["path"].removeprefix(self._below): self._age(about["last_modified"]) for about in listed}

    def find(self, file: str) -> Found | None:
        """A file with its version and its age, None if it does not exist."""
        with self._explained():
            try:
                found = self._store.get(self._below + file)
            except FileNotFoundError:
                return None
            return Found(bytes(found.bytes()), dict(found.meta), self._age(found.meta["last_modified"]))

    def snapshot(self) -> "Snapshot":
        return Snapshot(self)

    def prepare(self) -> None:
        """Check that objects can be written, and that conditions are heeded, without which no claim is safe."""
        probe = f".probe-{uuid4().hex}"
        with self._explained():
            try:
                first = self._store.put(self._below + probe, b"1", mode="create")
                self._clock.set(self._store.head(self._below + probe)["last_modified"])
                self._store.put(self._below + probe, b"2")
                heeded = self.put_if(probe, b"3", None) is None and self.put_if(probe, b"4", first) is None
                self._store.delete(self._below + probe)
            except FileNotFoundError as error:
                self._check_bucket(error)
                raise
        if not heeded:
            raise UserError(
                f"{self.name}: this service ignores the conditions of a write (If-None-Match, If-Match), so processes "
                "would overwrite each other's work; use one that heeds them, or extract into a local folder"
            )

    def put(self, file: str, parts: Sequence[Bytes], durable: bool = True) -> str:
        views = [memoryview(part).cast("B") for part in parts if len(part)]
        with self._explained():
            if sum(view.nbytes for view in views) <= BLOCK:
                self._store.put(self._below + file, b"".join(views), use_multipart=False)
            else:
                blocks = (view[at : at + BLOCK] for view in views for at in range(0, view.nbytes, BLOCK))
                self._store.put(self._below + file, blocks, use_multipart=True, chunk_size=BLOCK)
        return checksum(views)

    def put_new(self, file: str, parts: Sequence[Bytes]) -> bool:
        return self.put_if(file, b"".join(parts), None) is not None

    def put_if(self, file: str, content: bytes, version: Version | None) -> Version | None:
        """Write a file if it still has a version, or still does not exist if that is None.

        Returns:
            Its new version, None if it was not written.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode = "create" if version is None else {key: version[key] for key in ("e_tag", "version") if version.get(key)}
        with self._explained():
            try:
                return dict(self._store.put(self._below + file, content, mode=mode))
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return None

    def delete(self, name: str) -> None:
        files = [self._below + file for file in (name, *self.files(name))]
        with self._explained(), ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._delete, [files[at : at + 1000] for at in range(0, len(files), 1000)]))

    def copy(self, source: str, target: str) -> None:
        with self._explained():
            self._store.copy(self._below + source, self._below + target)

    def move(self, source: str, target: str) -> None:
        files = self.files(source) or [source] * (self.size(source) is not None)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda file: self.copy(file, target + file.removeprefix(source)), files))
        self.delete(source)

    def put_together(self, files: Mapping[str, Bytes]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda file: self.put(file, [files[file]]), files))

    def claim(self, name: str) -> Lease:
        return Lease(self, f"{LOCKS}/{name}")

    def below(self, folder: str) -> "ObjectBackend":
        return ObjectBackend(self._store, f"{self.name}/{folder}", f"{self._below}{folder}/", self._clock)

    def _age(self, written: datetime) -> float:
        """Seconds since a time that the service gave."""
        if self._clock.ahead is None:
            probe = f"{self._below}.probe-{uuid4().hex}"
            self._store.put(probe, b"")
            self._clock.set(self._store.head(probe)["last_modified"])
            self._store.delete(probe)
        return self._clock.age(written)

    def _delete(self, paths: list[str]) -> None:
        try:
            self._store.delete(paths)
        except FileNotFoundError:  # some services say so, and may stop there
            for path in paths if len(paths) > 1 else []:
                self._delete([path])

    def _check_bucket(self, error: FileNotFoundError) -> None:
        """Raise `UserError` if it is the bucket or container that is not there, rather than an object."""
        if any(code in str(error) for code in ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")):
            bucket = urlsplit(self.name).netloc
            raise UserError(f"{self.name}: there is no bucket {bucket}; create it, or correct the URL") from None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what obstore raises into one line for the user; a file that is not there stays `FileNotFoundError`."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except FileNotFoundError:
            raise
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise UserError(
                f"{self.name}: access is denied ({_reason(error)}); check the credentials and what they allow"
            ) from None
        except (BaseError, OSError) as error:
            text = str(error)
            if "NoSuchBucket" in text:
                self._check_bucket(FileNotFoundError(text))
            if any(sign in text for sign in NO_CREDENTIALS):
                raise UserError(f"{self.name}: no credentials; {CREDENTIALS[urlsplit(self.name).scheme]}") from None
            raise UserError(f"{self.name}: {_reason(error)}; check the URL and the network, and run it again") from None


class Clock:
    """The time of a service, by the last time that it gave. Clocks of machines differ, and may be set."""

    def __init__(self) -> None:
        self.ahead: float | None = None

    def set(self, now: datetime) -> None:
        """The time of the service is `now`."""
        self.ahead = now.timestamp() - time.monotonic()

    def age(self, written: datetime) -> float:
        """Seconds since a time of the service."""
        assert self.ahead is not None
        return time.monotonic() + self.ahead - written.timestamp()


class Snapshot(Backend):
    """The files of a backend as they are now, to read: one listing, and small files read together.

    With a request for each of thousands of markers, one after the other, opening a store would take minutes.
    """

    def __init__(self, backend: ObjectBackend):
        self.name = backend.name
        self._backend = backend
        self._sizes = {
            file: size for file, size in backend.sizes().items() if not file.startswith((f"{LOCKS}/", f"{REPLACED}/"))
        }
        texts = [file for file, size in self._sizes.items() if file.endswith(".json") and size <= JSON_BYTES]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            self._texts = dict(zip(texts, pool.map(backend.read, texts), strict=True))

    def read(self, file: str) -> bytes | None:
        if file not in self._sizes:
            return None
        return self._texts[file] if file in self._texts else self._backend.read(file)

    def size(self, file: str) -> int | None:
        return self._sizes.get(file)

    def blocks(self, file: str) -> Iterator[bytes]:
        return self._backend.blocks(file)

    def files(self, below: str = "") -> list[str]:
        return sorted(file for file in self._sizes if not below or file.startswith(f"{below}/"))


NO_CREDENTIALS = ("169.254.169.254", "metadata.google.internal", "MissingAccount", "Account must be specified")
"""Where a client asks for the role of the machine when it has found no credentials, and what others say."""

CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (which needs the package boto3)",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run `gcloud auth application-default login`",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or run `az login`",
}


def open(url: str) -> ObjectBackend:
    """The store at a URL.

    Raises:
        UserError: obstore is not installed, or this is no URL of a bucket and a prefix without credentials in it.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ModuleNotFoundError:
        raise UserError(
            f"{url}: the package obstore is not installed; run pip install 'aft-pipeline[object]'"
        ) from None
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise UserError(
            f"{parts.scheme}://{parts.hostname}: a URL with credentials would end up in logs; "
            f"{CREDENTIALS[parts.scheme]}"
        )
    if not parts.netloc or not parts.path.strip("/") or "//" in parts.path:
        raise UserError(f"{url}: write {parts.scheme}://BUCKET/PREFIX")
    retry: Any = {"retry_timeout": timedelta(seconds=PATIENCE)}
    client: Any = {"connect_timeout": "5s", "timeout": "120s", "allow_http": _endpoint().startswith("http://")}
    try:
        store = from_url(url, retry_config=retry, client_options=client, **_from_profile(parts.scheme))
    except (BaseError, ValueError) as error:
        if any(sign in str(error) for sign in NO_CREDENTIALS):
            raise UserError(f"{url}: no credentials; {CREDENTIALS[parts.scheme]}") from None
        raise UserError(f"{url}: {_reason(error)}") from None
    return ObjectBackend(store, url.rstrip("/"))


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
