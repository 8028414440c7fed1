import stat
from pathlib import Path

import pytest

from mdf.errors import UserError
from mdf.pseudonyms import pseudonym, read_salt


@pytest.fixture
def salt_file(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.delenv("MDF_SALT", raising=False)
    monkeypatch.setenv("MDF_SALT_FILE", str(tmp_path / "keys" / "salt"))
    return tmp_path / "keys" / "salt"


def test_a_salt_is_made_once_for_its_owner_alone_and_said_aloud(salt_file: Path, capsys):
    salt = read_salt()
    assert len(salt) == 64 and stat.S_IMODE(salt_file.stat().st_mode) == 0o600
    out = capsys.readouterr().out
    assert str(salt_file) in out and salt.decode() not in out
    assert read_salt() == salt and capsys.readouterr().out == ""
    assert [f.name for f in salt_file.parent.iterdir()] == ["salt"]


def test_a_salt_in_the_environment_goes_first(salt_file: Path, monkeypatch):
    monkeypatch.setenv("MDF_SALT", "sixteen letters!")
    assert read_salt() == b"sixteen letters!" and not salt_file.exists()


def test_the_default_place_is_in_the_users_configuration(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("MDF_SALT", raising=False)
    monkeypatch.delenv("MDF_SALT_FILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    read_salt()
    assert (tmp_path / "mdf" / "salt").is_file()


def test_a_salt_that_is_short_open_or_out_of_reach_is_refused(salt_file: Path, tmp_path: Path, monkeypatch):
    read_salt()
    salt_file.chmod(0o644)
    with pytest.raises(UserError, match="may be read by others; chmod 600"):
        read_salt()
    salt_file.chmod(0o600)
    salt_file.write_text("short")
    with pytest.raises(UserError, match="fewer than 16"):
        read_salt()
    monkeypatch.setenv("MDF_SALT_FILE", str(salt_file / "below" / "a_file"))
    with pytest.raises(UserError, match="name another file in MDF_SALT_FILE"):
        read_salt()


def test_pseudonyms_depend_on_salt_kind_and_value():
    salt, other = b"a" * 16, b"b" * 16
    made = {pseudonym(s, k, v) for s in (salt, other) for k in ("patient", "study") for v in ("1", "2")}
    assert len(made) == 8 and all(len(p) == 16 for p in made)
    assert pseudonym(salt, "patient", " 1 ") == pseudonym(salt, "patient", "1")
