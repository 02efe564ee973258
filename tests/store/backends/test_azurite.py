"""Object storage on Azure's own emulator, where its program `azurite-blob` is installed: npm install -g azurite."""

import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from itertools import count
from pathlib import Path

import pytest

pytest.importorskip("obstore")
pytest.importorskip("moto")  # for the tests of `test_object.py`

from pipeline import objects
from pipeline.data import Dataset, prepare
from pipeline.errors import UserError
from pipeline.store.backends import object
from pipeline.store.backends.object import ObjectBackend
from tests.datasets.test_locations import ROWS, jpeg, settings, shards
from tests.store.backends.contract import BackendContract
from tests.store.backends.stores import LeaseContract, StoreContract

PROGRAM = "azurite-blob"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(PROGRAM) is None, reason="Azurite is not installed: npm install -g azurite"),
]

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that every Azurite has; its key is in its documentation."""

CONTAINER = "container"
NUMBERS = count()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that has an empty container."""
    folder: Path = tmp_path_factory.mktemp("azurite")
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port = tried.getsockname()[1]
    server = subprocess.Popen(
        [PROGRAM, "--silent", "--disableTelemetry", "--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort",
         str(port), "--location", str(folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _create_container(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _create_container(endpoint: str) -> None:
    """Ask for the container until the server is there; obstore creates none."""
    about = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in about.items())]
    lines += [f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}", "restype:container"]
    signed = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    about["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signed).decode()}"
    url = f"{endpoint}/{ACCOUNT}/{CONTAINER}?restype=container"
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, headers=about, method="PUT")).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.fixture
def url(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new place for a store."""
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", endpoint)
    objects._bucket.cache_clear()
    return f"az://{CONTAINER}/project {next(NUMBERS)}/store.zarr"


class TestAzurite(BackendContract, StoreContract, LeaseContract):
    @pytest.fixture
    def backend(self, url: str) -> ObjectBackend:
        backend = object.open(url)
        backend.prepare()
        return backend


def test_a_source_is_read_and_referred_to(url: str, tmp_path: Path):
    here = shards(tmp_path / "here")
    for path in (tmp_path / "here" / "raw").iterdir():
        object.open(url).put(path.name, [path.read_bytes()])
    there = {**here, "path": f"{url}/*.tar"}
    one, two, three = (
        prepare(settings(source, how), tmp_path / name)
        for name, source, how in (("a", here, "copy"), ("b", there, "copy"), ("c", there, "reference"))
    )
    assert one.digest == two.digest == three.digest
    data = Dataset.open(tmp_path / "c")
    assert sorted(data.content(range(ROWS))) == sorted(map(jpeg, range(ROWS)))
    object.open(url).put("0.tar", [bytes(10240)])
    with pytest.raises(UserError, match=r"0\.tar: row 00 has changed since it was prepared"):
        data.content([0])
