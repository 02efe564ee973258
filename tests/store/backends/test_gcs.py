"""Object storage at gs://, as obstore's client for it writes and reads; see `gcs.py` for the service."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

pytest.importorskip("obstore")
pytest.importorskip("moto")

from pipeline import objects
from pipeline.store.backends import object
from pipeline.store.backends.object import ObjectBackend
from tests.store.backends.contract import BackendContract
from tests.store.backends.gcs import BUCKET, GoogleService
from tests.store.backends.stores import StoreContract

NUMBERS = count()


@pytest.fixture(scope="module")
def google() -> Iterator[GoogleService]:
    service = GoogleService()
    yield service
    service.stop()


@pytest.fixture
def url(google: GoogleService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new place for a store."""
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(google.key_file(tmp_path)))
    monkeypatch.setenv("AWS_ENDPOINT_URL", google.url)  # http is allowed where this is http
    objects._bucket.cache_clear()
    google.requests.clear()
    return f"gs://{BUCKET}/project {next(NUMBERS)}/store.zarr"


class TestGoogle(BackendContract, StoreContract):
    @pytest.fixture
    def backend(self, url: str) -> ObjectBackend:
        backend = object.open(url)
        backend.prepare()
        return backend


def test_what_a_version_is_there_is_said_in_each_write_that_rests_on_it(google: GoogleService, url: str):
    backend = object.open(url)
    first = backend.put_if("claim", b"1", None)
    assert first and first["version"] and backend.put_if("claim", b"2", None) is None
    second = backend.put_if("claim", b"1", first)  # the same bytes, so the same ETag, and another generation
    assert second and second["e_tag"] == first["e_tag"] and second["version"] != first["version"]
    assert backend.put_if("claim", b"3", first) is None and backend.read("claim") == b"1"
    assert backend.put_if("claim", b"3", second) and backend.read("claim") == b"3"
