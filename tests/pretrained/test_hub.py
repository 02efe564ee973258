"""Why the hub does not give a model, in one line that says what to do."""

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pipeline.pretrained import hub_problem


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (GatedRepoError, "accept its terms at https://huggingface.co/some/model, then run `hf auth login`"),
        (RepositoryNotFoundError, "or it is private: check the name"),
        (RevisionNotFoundError, "check the branch, tag or commit"),
        (LocalEntryNotFoundError, "set HF_ENDPOINT to a mirror"),
        (OfflineModeIsEnabled, "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_the_hub_refuses_has_a_remedy(error: type[Exception], remedy: str):
    assert remedy in hub_problem(error.__new__(error), "some/model")
    assert "\n" not in hub_problem(ConnectionError("no\nroute"), "some/model")
