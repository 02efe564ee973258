"""Sources at gs://, where the program `fake-gcs-server` is installed. It takes no uploads as obstore makes them, and
ignores conditions, so stores are not written to it.
"""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("obstore")

from pipeline import objects
from pipeline.data import Dataset, prepare
from pipeline.errors import UserError
from pipeline.objects import ObjectPath
from tests.datasets.test_locations import ROWS, folder, settings, shards

PROGRAM = "fake-gcs-server"
BUCKET = "bucket"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(PROGRAM) is None, reason="github.com/fsouza/fake-gcs-server is not installed"),
]


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that has an empty bucket, to which the environment leads."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port = tried.getsockname()[1]
    address = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    server = subprocess.Popen(
        [PROGRAM, "-backend", "memory", *address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    key = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    (tmp_path / "key.json").write_text(json.dumps(key))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "key.json"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)  # http is allowed where this is http
    objects._bucket.cache_clear()
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                _post(f"{url}/storage/v1/b", json.dumps({"name": BUCKET}).encode())
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def _post(url: str, content: bytes) -> None:
    about = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url, content, about, method="POST")).close()


@pytest.mark.parametrize("make", [folder, shards])
def test_a_source_is_read_and_referred_to(tmp_path: Path, endpoint: str, make: Callable[[Path], dict[str, Any]]):
    def put(name: str, content: bytes) -> None:
        _post(f"{endpoint}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(name, safe='')}", content)

    here = make(tmp_path / "here")
    for path in sorted((tmp_path / "here").rglob("*")):
        if path.is_file():
            put(path.relative_to(tmp_path / "here").as_posix(), path.read_bytes())
    there = {**here, "path": here["path"].replace(str(tmp_path / "here"), f"gs://{BUCKET}")}
    one, two, three = (
        prepare(settings(source, how), tmp_path / name)
        for name, source, how in (("a", here, "copy"), ("b", there, "copy"), ("c", there, "reference"))
    )
    assert one.digest == two.digest == three.digest
    data = Dataset.open(tmp_path / "c")
    assert data.content(range(ROWS)) == Dataset.open(tmp_path / "a").content(range(ROWS))
    place = next((tmp_path / "here" / "raw").rglob("*.tar" if make is shards else "00.jpg"))
    put(place.relative_to(tmp_path / "here").as_posix(), bytes(10240))
    with pytest.raises(UserError, match="has changed since it was prepared"):
        data.content(range(ROWS))
    assert ObjectPath(f"gs://{BUCKET}/none").size() is None
