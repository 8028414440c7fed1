"""Numbers of patients become pseudonyms: HMAC-SHA256 with a secret salt that the user keeps.

The same salt gives the same pseudonym, so that a patient's photographs stay together, also over several exports. Who
has the salt can tell whether a known number is in a manifest: it is to be kept like the patients' list, outside the
data's folder. Without a secret, every hospital number could be tried in minutes.
"""

import hmac
import os
import secrets
import stat
import tempfile
from pathlib import Path

from mdf.errors import UserError

LENGTH = 16  # hexadecimal digits: among ten million patients two are equal with a chance of 1 in 300,000
SHORTEST = 16  # characters of a salt


def pseudonym(salt: bytes, kind: str, value: str) -> str:
    """16 hexadecimal digits for a value; `kind` keeps equal numbers of patients and visits apart."""
    return hmac.new(salt, f"{kind}\0{value.strip()}".encode(), "sha256").hexdigest()[:LENGTH]


def salt_path() -> Path:
    """$MDF_SALT_FILE, else `mdf/salt` in the user's configuration folder."""
    if os.environ.get("MDF_SALT_FILE"):
        return Path(os.environ["MDF_SALT_FILE"]).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "mdf" / "salt"


def read_salt() -> bytes:
    """$MDF_SALT, else what the file of `salt_path` holds; a random one is written there where it is missing.

    Says aloud where a new one lies. Raises UserError for a salt that is short, or that others may read.
    """
    given = os.environ.get("MDF_SALT")
    if given is not None:
        return checked(given, "MDF_SALT")
    path = salt_path()
    try:
        if not path.exists():
            make_salt(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UserError(f"the salt of the pseudonyms in {path} may be read by others; chmod 600 {path}")
        return checked(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the salt of the pseudonyms in {path} cannot be read or made ({type(error).__name__}); "
            "name another file in MDF_SALT_FILE, or give the salt in MDF_SALT"
        ) from None


def make_salt(path: Path) -> None:
    """Write a random salt that only its owner can read; one that another process wrote meanwhile stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32) + "\n")
        os.link(name, path)
        print(f"note: a new secret salt for pseudonyms is in {path}; keep it, and keep it from others")
    except FileExistsError:
        pass
    finally:
        os.unlink(name)


def checked(salt: str, where: str) -> bytes:
    salt = salt.strip()
    if len(salt) < SHORTEST:
        raise UserError(f"the salt of the pseudonyms in {where} has fewer than {SHORTEST} characters; make it random")
    return salt.encode()
