"""A service that speaks S3, in this process, on the loopback interface; and faults that it can be given."""

import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

Rule = Callable[[dict[str, Any]], str | None]
"""From the environment of a request (WSGI) to what happens to it: `slow`, `cut`, `half`, a status, or None."""

BUCKET = "bucket"


class Service:
    """Moto's S3, behind rules.

    Attributes:
        url: its address.
        rule: applied to each request.
        requests: the method and path of each request.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self._app = DomainDispatcherApplication(create_backend_app)
        self.rule: Rule = lambda request: None
        self.requests: list[tuple[str, str]] = []
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def create(self, bucket: str) -> None:
        """Create a bucket."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{bucket}", method="PUT")).close()

    @cached_property
    def client(self) -> Any:
        """Of boto3, to write and delete objects."""
        from boto3 import client

        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
        return client("s3", endpoint_url=self.url, **keys)

    def put(self, key: str, content: bytes) -> None:
        """Write an object."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def delete(self, key: str) -> None:
        """Delete an object."""
        self.client.delete_object(Bucket=BUCKET, Key=key)

    def stop(self) -> None:
        self._server.shutdown()

    @contextmanager
    def with_rule(self, rule: Rule) -> Iterator[None]:
        """A rule for a while."""
        self.rule = rule
        try:
            yield
        finally:
            self.rule = lambda request: None

    def _answer(self, request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.requests.append((request["REQUEST_METHOD"], request["PATH_INFO"]))
        fault = self.rule(request)
        if fault == "slow":
            time.sleep(0.2)
        elif fault == "cut":
            raise ConnectionAbortedError
        elif fault == "half":
            return _half(b"".join(self._app(request, start)))
        elif fault:
            request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
            start(f"{fault} Fault", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code></Error>"]
        answer: Iterable[bytes] = self._app(request, start)
        return answer


def _half(answer: bytes) -> Iterator[bytes]:
    """The first half of an answer, and then the connection ends."""
    yield answer[: len(answer) // 2]
    raise ConnectionAbortedError


class _Quiet(WSGIRequestHandler):
    """Logs nothing, and ends a connection where an answer fails."""

    def log(self, *args: Any, **named: Any) -> None: ...

    def connection_dropped(self, *args: Any) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
