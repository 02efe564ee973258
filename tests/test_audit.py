from typing import Any

from tests.audit import lines

SKIPPED = {"name": "b", "skip_reason": "not found on PyPI"}


def test_what_was_audited_and_found_is_said():
    sound: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
    bad = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
    assert lines([sound, SKIPPED]) == (["audit: 0 in 1 packages; 1 could not be audited"], False)
    last = "audit: 1 in 2 packages; 1 could not be audited"
    assert lines([sound, SKIPPED, bad]) == (["c 2: PYSEC-1, fixed in 2.1", last], True)


def test_an_index_without_such_data_is_not_taken_for_a_sound_lock():
    assert lines([SKIPPED, SKIPPED])[0] == ["audit: NOTHING was audited: this package index has no vulnerability data"]
