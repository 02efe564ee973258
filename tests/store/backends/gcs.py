"""A stand-in for Google Cloud Storage, in this process: the part of its XML interface that obstore's client speaks.

Written after https://cloud.google.com/storage/docs/xml-api/reference-methods; no emulator that can be had takes writes
as this client makes them. Objects are in memory. Conditions, generations, parts, copies, listings by page and the
answers for what is not there follow the documentation.
"""

import hashlib
import json
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.sax.saxutils import escape

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

BUCKET = "bucket"
PAGE = 7
"""Objects in an answer to a listing: few, so that every longer one takes several."""


class Object:
    """An object as it was written once."""

    def __init__(self, content: bytes, generation: int):
        self.content, self.generation, self.written = content, generation, datetime.now(UTC)
        self.etag = f'"{hashlib.md5(content).hexdigest()}"'  # of the content, as there: not of the generation

    @property
    def headers(self) -> dict[str, str]:
        written = format_datetime(self.written, usegmt=True)
        return {"ETag": self.etag, "x-goog-generation": str(self.generation), "Last-Modified": written}


class GoogleService:
    """The service.

    Attributes:
        url: its address.
        requests: the method, path and query of each request.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self._objects: dict[str, Object] = {}
        self._parts: dict[str, dict[int, bytes]] = {}
        self._numbers, self._lock = count(1_700_000_000_000_000), threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def key_file(self, folder: Path) -> Path:
        """A key file that leads a client here, without credentials."""
        path = folder / "key.json"
        key = {"gcs_base_url": self.url, "disable_oauth": True, "client_email": "", "private_key": ""}
        path.write_text(json.dumps(key | {"private_key_id": ""}))
        return path

    def stop(self) -> None:
        self._server.shutdown()

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        request = Request(environ)
        # The path as it was sent: a slash that is part of a name arrives as one, and %2F as well.
        path = unquote(environ["REQUEST_URI"].partition("?")[0])
        self.requests.append((request.method, path, request.query_string.decode()))
        bucket, _, key = path.lstrip("/").partition("/")
        body = request.get_data()
        with self._lock:
            if bucket != BUCKET:
                answer = _error(404, "NoSuchBucket")
            elif not key:
                answer = self._list(request) if request.method == "GET" else _error(400, "NotImplemented")
            else:
                answer = self._object(request, key, body)
        return answer(environ, start)

    def _object(self, request: Request, key: str, body: bytes) -> Response:
        found, query = self._objects.get(key), request.args
        if request.method == "POST" and "uploads" in query:
            upload = str(next(self._numbers))
            self._parts[upload] = {}
            return _xml(f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        if request.method == "POST":
            parts = self._parts.pop(query["uploadId"])
            made = self._put(key, b"".join(parts[number] for number in sorted(parts)))
            result = f"<CompleteMultipartUploadResult><ETag>{escape(made.etag)}</ETag></CompleteMultipartUploadResult>"
            return _xml(result, made.headers)
        if request.method == "PUT" and "uploadId" in query:
            self._parts[query["uploadId"]][int(query["partNumber"])] = body
            return Response(status=200, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
        if request.method == "PUT":
            wanted = request.headers.get("x-goog-if-generation-match")
            if wanted is not None and int(wanted) != (found.generation if found else 0):
                return _error(412, "PreconditionFailed")
            if source := request.headers.get("x-goog-copy-source"):
                source = unquote(source).lstrip("/").partition("/")[2]
                if source not in self._objects:
                    return _error(404, "NoSuchKey")
                body = self._objects[source].content
            return Response(status=200, headers=self._put(key, body).headers)
        if found is None:
            return _error(404, "NoSuchKey")
        if request.method == "DELETE":
            del self._objects[key]
            return Response(status=204)
        if (match := request.headers.get("If-Match")) and match.strip('"') != found.etag.strip('"'):
            return _error(412, "PreconditionFailed")
        return _content(request, found)

    def _put(self, key: str, content: bytes) -> Object:
        self._objects[key] = made = Object(content, next(self._numbers))
        return made

    def _list(self, request: Request) -> Response:
        """Names in order, those below a folder as one where a delimiter is given, a page at a time."""
        prefix, delimiter = request.args.get("prefix", ""), request.args.get("delimiter", "")
        after = max(request.args.get("continuation-token", ""), request.args.get("start-after", ""))
        entries: dict[str, str] = {}
        for key in sorted(self._objects):
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key if end < 0 else key[: end + 1]
            if not key.startswith(prefix) or name <= after:
                continue
            if len(entries) == PAGE and name not in entries:
                last = escape(max(entries))
                token = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>"
                break
            about, quoted = self._objects[key], escape(name)
            entries[name] = f"<CommonPrefixes><Prefix>{quoted}</Prefix></CommonPrefixes>" if end >= 0 else (
                f"<Contents><Key>{quoted}</Key><LastModified>{about.written.isoformat()}</LastModified>"
                f"<ETag>{escape(about.etag)}</ETag><Size>{len(about.content)}</Size></Contents>"
            )  # fmt: skip
        else:
            token = "<IsTruncated>false</IsTruncated>"
        return _xml(f"<ListBucketResult>{''.join(entries.values())}{token}</ListBucketResult>")


def _content(request: Request, found: Object) -> Response:
    """An object, or the range of it that was asked for."""
    content, headers = found.content, found.headers
    if asked := request.headers.get("Range"):
        start, _, end = asked.removeprefix("bytes=").partition("-")
        if int(start) >= len(content):
            return _error(416, "InvalidRange")
        stop = min(int(end) + 1, len(content)) if end else len(content)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        return Response(content[int(start) : stop], status=206, headers=headers)
    return Response(content, status=200, headers=headers)


def _xml(content: str, headers: dict[str, str] | None = None) -> Response:
    return Response(f"<?xml version='1.0' encoding='UTF-8'?>{content}", status=200, headers=headers)


def _error(status: int, code: str) -> Response:
    return Response(f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>", status=status)


class _Quiet(WSGIRequestHandler):
    def log(self, *args: Any, **named: Any) -> None: ...
