"""Files inside installed packages."""

import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.packages import packaged


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that cannot be imported, with a file of data."""
    folder = tmp_path / "brought_along"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "data" / "rows.csv").write_text("1,2")
    monkeypatch.syspath_prepend(tmp_path)
    return folder.name


def test_files_and_folders_are_found_without_importing_the_package(package: str):
    assert packaged(package, "data/rows.csv", "pip install it").read_text() == "1,2"
    assert packaged(package, "data", "pip install it").is_dir()
    assert package not in sys.modules


def test_a_file_that_the_package_does_not_have_is_named(package: str):
    with pytest.raises(UserError, match=r"package brought_along has no other\.csv; run pip install it"):
        packaged(package, "other.csv", "pip install it")


def test_a_mistyped_file_gets_its_neighbours(package: str):
    with pytest.raises(UserError, match=r"has no data/row\.csv; it has data/rows\.csv$"):
        packaged(package, "data/row.csv")
    with pytest.raises(UserError, match=r"has no zzqx; check the path$"):
        packaged(package, "zzqx")


def test_a_mistyped_package_gets_the_installed_neighbours():
    with pytest.raises(UserError, match=r"sklaern is not installed; installed are .*sklearn"):
        packaged("sklaern", "datasets")


def test_without_a_known_command_no_package_to_install_is_made_up():
    with pytest.raises(UserError, match=r"is not installed; check the name, or install what contains it$") as caught:
        packaged("zzqx_nothing_like_it", "rows.csv")
    assert "pip" not in str(caught.value)


@pytest.mark.parametrize("name", ["not_installed_at_all", "token"])
def test_a_package_that_is_not_installed_or_a_lone_module_is_named_with_the_command(name: str):
    with pytest.raises(UserError, match=f"the package {name} is not installed; run pip install it"):
        packaged(name, "rows.csv", "pip install it")


def test_no_command_is_made_up_from_a_name_and_installed_neighbours_are_named():
    with pytest.raises(UserError) as caught:
        packaged("pyarow", "rows.csv")
    assert "the package pyarow is not installed; installed are" in str(caught.value)
    assert "pyarrow" in str(caught.value)
    assert "pip install" not in str(caught.value)


def test_files_of_a_like_name_are_named(package: str):
    with pytest.raises(UserError, match=r"has no data/row\.csv; it has data/rows\.csv"):
        packaged(package, "data/row.csv")
    with pytest.raises(UserError, match=r"has no nowhere/x\.csv; check the path"):
        packaged(package, "nowhere/x.csv")
