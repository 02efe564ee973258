"""Images at URLs of a table: fetched once, kept by digest, and quarantined if they cannot be had; on loopback alone."""

import io
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.datasets import _downloads
from pipeline.datasets._downloads import Downloads
from pipeline.objects import is_url
from pipeline.params import parse


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 5, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `/N.png`, and much that is wrong; counts what it is asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.both = threading.Barrier(2, timeout=30)

    @property
    def at(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked[self.path] += 1
        name = self.path.strip("/")
        if name in ("one", "other"):  # answered when both were asked for
            self.server.both.wait()
        if name == "gone":
            self.send_error(404)
        elif name == "flaky" and self.server.asked["/flaky"] < 3:
            self.send_error(503)
        elif name == "down":
            self.send_error(500)
        elif name == "moved":
            self._reply(b"", 302, Location="/1.png")
        elif name == "to-a-file":
            self._reply(b"", 302, Location="file:///etc/hostname")
        elif name == "circle":
            self._reply(b"", 302, Location="/circle")
        elif name == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"short")
            self.close_connection = True
        elif name == "endless":
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 16))
        elif name == "slow":
            self._begin()
            time.sleep(1.0)
            self.close_connection = True
        elif name == "drip":
            self._begin()
            with suppress(OSError):
                for _ in range(40):
                    self.wfile.write(b".")
                    time.sleep(0.05)
        elif name == "page":
            self._reply(b"<html>please log in</html>")
        else:
            number = name.partition(".")[0]
            self._reply(png(int(number) if number.isdigit() else 1))

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"x")

    def _reply(self, content: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(_downloads, "RETRY", _downloads.RETRY.new(backoff_factor=0))
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def section(table: Path, **dataset: Any) -> PrepareSettings:
    source = {"family": "image_table", "path": str(table), "label_column": "label"}
    return parse(PrepareSettings, {"source": source, "test": 4, "val": 4, **dataset}, "dataset")


def write(path: Path, images: list[str]) -> Path:
    path.write_text("\n".join(["image,label", *(f"{image},{'ab'[n % 2]}" for n, image in enumerate(images)), ""]))
    return path


def test_images_at_urls_are_fetched_once(here: Path, server: Server, capsys: Any):
    (here / "local.png").write_bytes(png(99))
    urls = [f"{server.at}/{n}.png" for n in range(1, 30)]
    table = write(here / "list.csv", [*urls, "local.png", urls[0], f"{server.at}/moved"])
    first = prepare(section(table, deduplicate="none"), here / "data")
    assert f"fetching 30 images from 127.0.0.1, into {Path('.aft/downloads')}" in capsys.readouterr().err
    assert max(server.asked.values()) == 2, "/1.png: by itself, and by what leads to it"
    data = Dataset.open(here / "data")
    contents = dict(zip(data.ids, data.content(np.arange(len(data))), strict=True))
    assert contents[urls[2]] == png(3) and contents["local.png"] == png(99)

    asked = sum(server.asked.values())
    again = prepare(section(table, deduplicate="none"), here / "data")
    assert again.digest == first.digest and sum(server.asked.values()) == asked
    assert "fetching" not in capsys.readouterr().err


def test_several_are_fetched_at_a_time(tmp_path: Path, server: Server):
    downloads = Downloads(tmp_path)
    downloads.fetch(lambda: [f"{server.at}/one", f"{server.at}/other"])
    assert downloads.read(f"{server.at}/one") == downloads.read(f"{server.at}/other") == (png(1), None)


@pytest.mark.parametrize(
    ("path", "asked", "problem"),
    [
        ("gone", 1, "the server answers 404 Not Found"),
        ("down", 5, "the server answers 500 Internal Server Error"),
        ("to-a-file", 1, "leads to a URL that is neither http nor https"),
        ("circle", 6, "redirected more than 5 times"),
        ("cut", 1, "cannot be fetched: IncompleteRead.*"),
        ("endless", 1, "more than 0 MiB"),
        ("slow", 1, "no answer for 0 seconds"),
        ("drip", 1, "not finished after 0 seconds"),
    ],
)
def test_what_cannot_be_fetched_is_told(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, path: str, asked: int, problem: str
):
    monkeypatch.setattr(_downloads, "LARGEST", 1 << 17)
    monkeypatch.setattr(_downloads, "PATIENCE", 0.3)
    monkeypatch.setattr(_downloads, "DEADLINE", 0.4)
    downloads, url = Downloads(tmp_path / "kept"), f"{server.at}/{path}"
    for _ in range(2):
        downloads.fetch(lambda: [url])
        content, found = downloads.read(url)
        assert content == b"" and found is not None
        assert re.fullmatch(problem, found), found
        assert "\n" not in found
    assert server.asked[f"/{path}"] == asked, "a failure is remembered, so that both passes agree"
    assert not (tmp_path / "kept").exists()


def test_a_bad_moment_of_a_server_is_waited_for(tmp_path: Path, server: Server):
    assert Downloads(tmp_path).read(f"{server.at}/flaky") == (png(1), None)
    assert server.asked["/flaky"] == 3


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("file:///etc/hostname", "neither http nor https"),
        ("ftp://127.0.0.1/a.png", "neither http nor https"),
        ("http://127.0.0.1:1/a.png", "Connection refused"),
        ("http://[::1/a.png", "cannot be fetched"),
        ("http://", "cannot be fetched"),
    ],
)
def test_other_schemes_and_places_without_a_server_are_refused(tmp_path: Path, server: Server, url: str, problem: str):
    content, found = Downloads(tmp_path).read(url)
    assert content == b"" and problem in (found or "") and "\n" not in (found or "")


def test_unreadable_urls_are_quarantined_and_tried_again_by_the_next_run(here: Path, server: Server):
    urls = [f"{server.at}/{n}.png" for n in range(1, 19)]
    table = write(here / "list.csv", [*urls, f"{server.at}/gone", f"{server.at}/page", "file:///etc/hostname"])
    done = prepare(section(table, tolerance=0.2), here / "data")
    assert (done.rows, done.dropped["unreadable"]) == (18, 3)
    listed = (here / "data" / "quarantine.csv").read_text().splitlines()[1:]
    for line, url, reason in zip(
        listed, ("/gone", "/page", "file:"), ("404 Not Found", "not an image", "neither http nor"), strict=True
    ):
        assert url in line and reason in line
    assert server.asked["/gone"] == 1, "by one of the passes"
    prepare(section(table, tolerance=0.2), here / "data")
    assert server.asked["/gone"] == 2 and server.asked["/page"] == 1


def test_a_damaged_or_deleted_content_is_fetched_again(tmp_path: Path, server: Server):
    url = f"{server.at}/5.png"
    assert Downloads(tmp_path).read(url) == (png(5), None)
    (kept,) = (path for path in (tmp_path / "contents").rglob("*") if path.is_file())
    kept.write_bytes(png(6))
    assert Downloads(tmp_path).read(url) == (png(5), None)
    kept.unlink()
    assert Downloads(tmp_path).read(url) == (png(5), None)
    assert server.asked["/5.png"] == 3


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("https://a.org/x.png", True),
        ("HTTP://a.org/x", True),
        ("s3://bucket/x.png", True),
        ("a/b.png", False),
        ("C:/pictures/x.png", False),
        ("what://is this", True),
        ("100://x", False),
    ],
)
def test_a_url_has_a_scheme(path: str, expected: bool):
    assert is_url(path) == expected
