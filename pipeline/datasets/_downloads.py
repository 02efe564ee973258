"""Images at URLs: fetched once, over http and https alone, and kept in a folder.

    <folder>/urls/ab/<SHA-256 of the URL>       the SHA-256 of what was there, in hexadecimal
    <folder>/contents/cd/<SHA-256 of the content>

So a URL has the bytes that it had when it was first fetched, until the folder is deleted. What cannot be fetched is not
kept, and tried again by the next `aft prepare`.
"""

import hashlib
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry

from pipeline import __version__
from pipeline.errors import count, listed
from pipeline.files import read_regular, write_atomically
from pipeline.progress import progress

CONNECTIONS = 16
"""How many URLs are fetched at a time."""

LARGEST = 64 << 20
"""The largest content, in bytes."""

PATIENCE, DEADLINE = 20.0, 120.0
"""Seconds without a byte, and seconds in all, after which a URL is given up."""

REDIRECTS = 5

DIGEST = re.compile("[0-9a-f]{64}")

RETRY = Retry(
    total=4,
    redirect=0,  # those are followed by `requests`, which knows no other scheme than http and https
    backoff_factor=0.5,
    status_forcelist=(429, 500, 502, 503, 504),
    raise_on_status=False,
    respect_retry_after_header=False,  # a server may ask for hours
)
"""Attempts after 0.5, 1, 2 and 4 seconds, where the server or the network may have a bad moment."""


class Downloads:
    """The contents of URLs.

    Args:
        folder: where they are kept; made when the first one is there.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._failed: dict[str, str] = {}
        self._own = threading.local()

    def fetch(self, urls: Callable[[], Iterable[str]]) -> None:
        """Fetch what is not there yet, several at a time, and say before what that is.

        Args:
            urls: gives the URLs, the same twice; some may occur several times.
        """
        hosts: dict[str, None] = {}
        missing = 0
        for url in self._missing(urls()):
            missing += 1
            hosts.setdefault(_host(url))
        if not missing:
            return
        some = listed(list(hosts)[:3]) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")
        print(f"fetching {count(missing, 'image')} from {some}, into {self.folder}", file=sys.stderr, flush=True)
        waiting: deque[Future[None]] = deque()
        with ThreadPoolExecutor(CONNECTIONS) as pool, progress("fetch images", missing, "images") as advance:
            try:
                for url in self._missing(urls()):
                    waiting.append(pool.submit(self._keep, url))
                    if len(waiting) >= 4 * CONNECTIONS:
                        waiting.popleft().result()
                        advance(1)
                while waiting:
                    waiting.popleft().result()
                    advance(1)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def read(self, url: str) -> tuple[bytes, str | None]:
        """The content of a URL, or why there is none. A kept one that is damaged is fetched again."""
        if (found := self._kept(url)) is None:
            if url not in self._failed:
                self._keep(url)
            found = self._kept(url)
        return (found, None) if found is not None else (b"", self._failed.get(url, "cannot be kept"))

    def _missing(self, urls: Iterable[str]) -> Iterator[str]:
        """Those that were not fetched, each once."""
        seen: set[bytes] = set()
        for url in urls:
            key = hashlib.sha256(url.encode()).digest()[:16]
            if key not in seen and url not in self._failed and not self._record(url).exists():
                seen.add(key)
                yield url

    def _record(self, url: str) -> Path:
        name = hashlib.sha256(url.encode()).hexdigest()
        return self.folder / "urls" / name[:2] / name

    def _content(self, digest: str) -> Path:
        return self.folder / "contents" / digest[:2] / digest

    def _kept(self, url: str) -> bytes | None:
        try:
            digest = read_regular(self._record(url), 64).decode("ascii", "replace")
            content = read_regular(self._content(digest), LARGEST) if DIGEST.fullmatch(digest) else b""
        except FileNotFoundError:
            return None
        return content if hashlib.sha256(content).hexdigest() == digest else None

    def _keep(self, url: str) -> None:
        """Fetch a URL and keep its content, or remember why not."""
        try:
            content = self._get(url)
        except _Failure as failure:
            self._failed[url] = str(failure)
            return
        digest = hashlib.sha256(content).hexdigest()
        write_atomically(self._content(digest), content)
        write_atomically(self._record(url), digest)

    def _get(self, url: str) -> bytes:
        """What a server answers. Raises `_Failure`."""
        began, content = monotonic(), bytearray()
        try:
            with self._session().get(url, stream=True, timeout=PATIENCE) as answer:
                if answer.status_code != 200:
                    raise _Failure(f"the server answers {answer.status_code} {answer.reason or ''}".rstrip())
                # As they were sent: an image has a compression of its own, and another one might be a bomb.
                while piece := answer.raw.read1(1 << 16, decode_content=False):
                    content += piece
                    if len(content) > LARGEST:
                        raise _Failure(f"more than {LARGEST >> 20} MiB")
                    if monotonic() - began > DEADLINE:
                        raise _Failure(f"not finished after {DEADLINE:.0f} seconds")
        except requests.exceptions.InvalidSchema:
            raise _Failure("leads to a URL that is neither http nor https") from None
        except requests.exceptions.TooManyRedirects:
            raise _Failure(f"redirected more than {REDIRECTS} times") from None
        except (requests.exceptions.Timeout, ReadTimeoutError, TimeoutError):
            raise _Failure(f"no answer for {PATIENCE:.0f} seconds") from None
        except (requests.exceptions.RequestException, HTTPError, OSError, ValueError) as error:
            raise _Failure(f"cannot be fetched: {_reason(error)}") from None
        return bytes(content)

    def _session(self) -> requests.Session:
        """This thread's own: connections are used again, and sessions are not made for several threads."""
        if not hasattr(self._own, "session"):
            session = requests.Session()
            session.mount("http://", HTTPAdapter(max_retries=RETRY))
            session.mount("https://", HTTPAdapter(max_retries=RETRY))
            session.max_redirects = REDIRECTS
            session.auth = lambda request: request  # no passwords of ~/.netrc
            asks = {"User-Agent": f"aft/{__version__}", "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"}
            session.headers.update(asks)
            self._own.session = session
        found: requests.Session = self._own.session
        return found


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or url
    except ValueError:  # such as a bracket that is not closed
        return url


class _Failure(Exception):
    """Why a URL has no content."""


def _reason(error: BaseException) -> str:
    """The innermost of the causes that libraries wrap into one another, on one line."""
    while (inner := getattr(error, "reason", None)) is not None or (
        error.args and isinstance(inner := error.args[-1], BaseException)
    ):
        if not isinstance(inner, BaseException):
            break
        error = inner
    return " ".join(str(error).split())[:200] or type(error).__name__
