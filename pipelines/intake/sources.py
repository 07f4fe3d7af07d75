"""Where a batch comes from: a folder here, or any address that fsspec reads (s3://, gs://, https://, zip://).

A file is read once: it is hashed while it is copied into the identified zone, and what was copied is what is
decoded. Folders are walked without following a link, and only regular files are opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from pipelines.errors import LclscError, OutsideSystemError, VideoError, WrongUseError
from pipelines.files import CHUNK_BYTES, remove
from pipelines.video import faults, frame_folder

KEEP_FREE_BYTES = 1 << 30  # what a copy leaves on the disk for tables, the ledger and git
CACHES = ("simplecache", "filecache", "blockcache", "cached")
OF_THE_FILE = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})
"""What a disk says of a bad sector or a damaged entry; also a share that is away, but then its folder says so, too."""
OF_THE_WAY = frozenset(
    {errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH}
    | {errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO}
)
EXTRAS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
KINDS = {
    stat.S_ISLNK: ("symlink", "a link"),
    stat.S_ISDIR: ("folder", "a folder"),
    stat.S_ISFIFO: ("fifo", "a pipe"),
    stat.S_ISSOCK: ("socket", "a socket"),
    stat.S_ISCHR: ("device", "a device"),
    stat.S_ISBLK: ("device", "a device"),
}


class Source(Protocol):
    """A batch's files under the names its manifest gives them."""

    name: str  # what people call this batch

    def open(self, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Read a regular file. FileNotFoundError, or VideoError for what is no plain, finished file."""
        ...

    def state(self, path: str) -> list[str]:
        """What changes when the file does (size, time); FileNotFoundError."""
        ...

    def names(self, path: str) -> list[str]:
        """The names in a folder, hidden ones left out."""
        ...


def place(text: str | Path, base: Path) -> str:
    """One spelling of a place: an address without a slash at its end, or a path made absolute from ``base``."""
    if not is_address(str(text)):
        return str((base / text).resolve())
    first, chained, rest = str(text).partition("::")
    return f"{_without_slash(first)}{chained}{rest}"


def of(place: str | Path) -> LocalFolder | RemoteFolder:
    """The source at a path or an address."""
    text = str(place)
    if not is_address(text):
        return LocalFolder(existing(Path(text)))
    if text.startswith(("file://", "local://")) and "::" not in text:
        return LocalFolder(existing(Path(text.split("://", 1)[1])))
    return RemoteFolder(text)


def is_address(place: str) -> bool:
    """Of fsspec's, and not a path."""
    return "://" in place or "::" in place


def _without_slash(address: str) -> str:
    return address if address.endswith("://") else address.rstrip("/")


def existing(folder: Path) -> Path:
    """WrongUseError where there is no such folder: a misspelt name is no empty batch."""
    if not folder.is_dir():
        raise WrongUseError("no_folder", f"There is no folder {folder}.", "Name the folder that holds the videos.")
    return folder


def kind_of(mode: int) -> tuple[str, str]:
    """Code and words for what is no regular file."""
    return next(kind for is_kind, kind in KINDS.items() if is_kind(mode))


def copy(source: Source, path: str, target: Path, max_bytes: int = sys.maxsize) -> str:
    """The video id of a file or a folder of frames, taken from what is copied to ``target``.

    What is over the cap is not copied on. A folder that gained or lost a frame meanwhile is still being written.
    """
    room = _Room(target.parent, max_bytes)
    remove(target)
    try:
        return _copy_file(source, path, target, room)
    except VideoError as error:
        if error.code != "folder":
            raise
    target.mkdir(mode=0o700)
    names = source.names(path)
    for name in names:
        _copy_file(source, f"{path}/{name}", target / name, room)
    if source.names(path) != names:
        raise _still_written()
    frame_folder.rename_by_order(target)  # names may say who it is, and are not in the id
    return frame_folder.video_id(target)


def _copy_file(source: Source, path: str, target: Path, room: _Room) -> str:
    sha256 = hashlib.sha256()
    with source.open(path) as reader, target.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            room.take(len(chunk))
            sha256.update(chunk)
            writer.write(chunk)
    return sha256.hexdigest()


class _Room:
    """What one video may take of the disk."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.cap = self.left = max_bytes
        self.free = _free_bytes(folder)

    def take(self, length: int) -> None:
        self.left -= length
        self.free -= length
        if self.left < 0:
            raise faults.fault("over_bytes", f"The video has more than {self.cap} bytes.")
        if self.free < 0:
            raise OutsideSystemError(
                "disk_full", "The workspace's disk has no room for the next video.", "Free some disk, run it again."
            )


def _free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize - KEEP_FREE_BYTES


class _Reader:
    """Errors of reading become the source's; those of whoever writes what was read stay what they are."""

    def __init__(self, file: Any, asked: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self.file = file
        self.asked = asked

    def read(self, length: int = -1) -> bytes:
        with self.asked():
            return bytes(self.file.read(length))


# --- a folder on this machine ----------------------------------------------------------------------


class LocalFolder:
    """A folder: every part of a path is opened from the one before it, and none may be a link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.name = self.folder.name

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        with contextlib.ExitStack() as stack:
            with self._asked():
                file = stack.enter_context(open_plain(self.folder, path))
                before = _state(os.fstat(file.fileno()))
            if _has_writer(file.fileno()):
                raise _still_written()
            yield _Reader(file, self._asked)  # type: ignore[misc]
            with self._asked():
                after = _state(os.fstat(file.fileno()))
            if after != before:
                raise _still_written()

    def state(self, path: str) -> list[str]:
        with self._asked(), open_plain(self.folder, path) as file:
            if _has_writer(file.fileno()):
                raise _still_written()
            return _state(os.fstat(file.fileno()))

    def names(self, path: str) -> list[str]:
        with self._asked(), _walked(self.folder, PurePosixPath(path).parts) as here:
            return sorted(name for name in os.listdir(here) if not name.startswith("."))  # noqa: PTH208 - a descriptor

    def folders(self) -> list[str]:
        """Folders in it; links and hidden ones never. None while a share is away: it comes back."""
        try:
            found = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
            return sorted(path.name for path in found if path.is_dir() and not path.is_symlink())
        except OSError:
            return []

    def at(self, name: str) -> str:
        """Where one of its folders lies, for ``of``."""
        return str(self.folder / name)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """A file that cannot be read is set aside; a folder that is away is asked again later."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                remedy = "Give this user the right to read it, and to enter the folders above it."
                raise VideoError("no_access", "The file may not be read.", remedy) from None
            if error.errno in OF_THE_FILE and self._answers():
                cause = f"The file cannot be read to its end ({error.strerror})."
                raise VideoError("read_error", cause, "Copy it from the recorder again.") from None
            if error.errno in OF_THE_FILE | OF_THE_WAY:
                raise OutsideSystemError(
                    "source_unreachable",
                    f"The source could not be read ({error.strerror}).",
                    "Check the disk or the network share that the batch lies on, and run it again.",
                    transient=True,
                ) from None
            raise

    def _answers(self) -> bool:
        try:
            next(self.folder.iterdir(), None)
        except OSError:
            return False
        return True


@contextlib.contextmanager
def open_plain(folder: Path, path: str) -> Iterator[BinaryIO]:
    """A regular file below ``folder``, no link followed on the way, nothing opened that would block or act."""
    *folders, name = PurePosixPath(path).parts
    with _walked(folder, folders) as here:
        _require(here, name, stat.S_ISREG)
        with os.fdopen(_opened(name, os.O_RDONLY | os.O_NONBLOCK, here), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _not_plain("device", "no regular file")
            yield file


@contextlib.contextmanager
def _walked(folder: Path, parts: Sequence[str]) -> Iterator[int]:
    """A descriptor of the folder below ``folder``, each part opened from the one before it."""
    with contextlib.ExitStack() as stack:
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, here)
        for part in parts:
            _require(here, part, stat.S_ISDIR)
            here = _opened(part, os.O_RDONLY | os.O_DIRECTORY, here)
            stack.callback(os.close, here)
        yield here


def _require(here: int, part: str, wanted: Any) -> None:
    mode = os.stat(part, dir_fd=here, follow_symlinks=False).st_mode
    if wanted(mode):
        return
    if wanted is stat.S_ISDIR and stat.S_ISREG(mode):
        raise FileNotFoundError(part)
    raise _not_plain(*kind_of(mode))


def _opened(part: str, flags: int, here: int) -> int:
    try:
        return os.open(part, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):  # became a link since it was looked at
            raise _not_plain("symlink", "a link") from None
        raise


def _not_plain(code: str, what: str) -> VideoError:
    return VideoError(code, f"The row names {what}.", "Put the file itself there; it stays where it is until then.")


def _still_written() -> VideoError:
    return VideoError("still_written", "The file is still being written.", "Take the batch in when the copy is done.")


def _state(status: os.stat_result) -> list[str]:
    return [str(status.st_size), str(status.st_mtime_ns)]


def _has_writer(descriptor: int) -> bool:
    """Has a process of this machine the file open for writing? The kernel grants no read lease then.

    Where leases are not to be had (another user's file, some network folders) the answer is no: size and time
    are compared before and after reading in any case.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # a lease broken now must not end the process
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


# --- any other address -----------------------------------------------------------------------------


class RemoteFolder:
    """A folder at an address of fsspec's. Credentials come from the environment, as its package documents."""

    def __init__(self, address: str) -> None:
        _refuse(address)
        from fsspec.core import url_to_fs

        self.address = address
        with _reachable(address):
            self.files, root = url_to_fs(address)
        self.root = str(root).rstrip("/")
        self.name = PurePosixPath(self.root or urlsplit(address).netloc).name

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        before = self.state(path)
        with _reachable(self.name):
            file = self.files.open(f"{self.root}/{path}", "rb")
        with contextlib.closing(file):
            yield _Reader(file, lambda: _reachable(self.name))  # type: ignore[misc]
        if self.state(path) != before:
            raise _still_written()

    def state(self, path: str) -> list[str]:
        with _reachable(self.name):
            self.files.invalidate_cache()
            info = self.files.info(f"{self.root}/{path}")
        if info["type"] != "file" or info.get("islink"):
            raise _not_plain("folder", "no regular file")
        changing = (info.get(name) for name in ("size", "ETag", "etag", "mtime", "LastModified", "updated", "created"))
        return [str(value) for value in changing]

    def names(self, path: str) -> list[str]:
        with _reachable(self.name):
            self.files.invalidate_cache()
            found = self.files.ls(f"{self.root}/{path}", detail=False)
        return _names(found, but=f"{self.root}/{path}")

    def folders(self) -> list[str]:
        """Folders in it, hidden ones left out. A bucket knows no empty folder: none when all were removed."""
        try:
            with _reachable(self.address):
                self.files.invalidate_cache()
                found = self.files.ls(self.root, detail=True)
        except FileNotFoundError:
            return []
        return _names((entry["name"] for entry in found if entry["type"] == "directory"), but=self.root)

    def at(self, name: str) -> str:
        """The address of one of its folders."""
        first, chained, rest = self.address.partition("::")
        folder = _without_slash(first)
        return f"{folder}{'' if folder.endswith('://') else '/'}{name}{chained}{rest}"


def _names(entries: Iterable[object], *, but: str) -> list[str]:
    """Last parts of what a listing gave. A bucket lists the mark of an empty folder as an entry of that folder."""
    names = (str(entry).rstrip("/") for entry in entries)
    last = (PurePosixPath(name).name for name in names if name.strip("/") != but.strip("/"))
    return sorted(name for name in last if name and not name.startswith("."))


def _refuse(address: str) -> None:
    """Addresses that carry a secret, or that would leave copies outside the identified zone."""
    for part in address.split("::"):
        if part.split("://")[0] in CACHES:
            raise WrongUseError(
                "caching_address",
                "This address keeps copies of the videos outside the workspace.",
                "Name the files themselves.",
            )
        known = urlsplit(part)
        if known.password or (known.scheme in ("http", "https") and (known.username or known.query)):
            raise WrongUseError(
                "credentials_in_address",
                "The address carries a password, or what may be one: a user name or a query.",
                "Set it in the environment; for s3:// that is AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            )


@contextlib.contextmanager
def _reachable(what: str) -> Iterator[None]:
    """Errors of other people's file systems, told apart: missing file, no right, missing package, no way through."""
    try:
        yield
    except (FileNotFoundError, LclscError):
        raise
    except PermissionError:
        remedy = "Give the credentials in the environment the right to read it, or renew them."
        raise VideoError("no_access", "The file may not be read.", remedy) from None
    except ImportError:
        package = EXTRAS.get(what.split("://")[0], "the package that fsspec names for it")
        raise WrongUseError(
            "no_reader_for_address",
            f"Addresses like {what.split('://')[0]}:// need {package}, which is not installed.",
            "Run `pip install 'lclsc[s3]'`" + ("." if package == "s3fs" else f", or `pip install {package}`."),
        ) from None
    except ValueError as error:
        raise WrongUseError("bad_address", f"The address cannot be read: {error}.", "See fsspec's list.") from None
    except Exception as error:  # each file system has its own tree of errors
        raise OutsideSystemError(
            "source_unreachable",
            f"The source could not be read ({type(error).__name__}).",
            "Check the address, the network and the credentials in the environment, and run it again.",
            transient=True,
        ) from None
