"""Where DVC keeps objects, read directly: the cache and the remotes, a file an object, named by its MD5.

DVC's own questions (``status -c``, ``push``) trust what they noted earlier and miss objects that were
deleted or altered since; these read the bytes.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from pipelines import versioning
from pipelines.errors import LclscError, asking, store_unreachable
from pipelines.files import md5_bytes, replace_file
from pipelines.workspace import Workspace

CACHE = "cache"
Answer = TypeVar("Answer")


NO_OBJECT = "0" * 32


@dataclass(frozen=True)
class ObjectStore:
    """A cache or remote: an fsspec file system and the folder in it; ``unreachable`` says why it cannot be asked.

    ``absent``: it is a folder of this machine that does not exist, never made or not mounted.
    """

    name: str
    filesystem: Any = None
    root: str = ""
    unreachable: str = ""
    absent: bool = False

    def require(self) -> None:
        """StoreUnreachableError unless it answers now."""
        self.read(NO_OBJECT)

    def read(self, md5: str) -> bytes | None:
        """The object's bytes, whatever they are; None where it is not there."""
        return self._ask(md5, lambda file: file.read())

    def read_intact(self, md5: str) -> bytes | None:
        """The object's bytes if they are the ones its name says."""
        content = self.read(md5)
        return content if content is not None and md5_bytes(content) == md5.removesuffix(".dir") else None

    def hash(self, md5: str, algorithm: str) -> str | None:
        """The object's hash, streamed; None where it is not there."""
        return self._ask(md5, lambda file: hashlib.file_digest(file, algorithm).hexdigest())

    def get(self, md5: str, file: Path) -> None:
        """Copy the object out, whatever its bytes are."""
        with self._asked():
            self.filesystem.get_file(self._path(md5), str(file))

    def put(self, md5: str, file: Path) -> None:
        """Store the file's bytes under that name, in place of what is there; whole or not at all."""
        with self._asked():
            if isinstance(self.filesystem, LocalFileSystem):
                replace_file(Path(self._path(md5)), file)
            else:
                self.filesystem.put_file(str(file), self._path(md5))

    def delete(self, md5: str) -> bool:
        """True when it was there."""
        with self._asked():
            try:
                self.filesystem.rm_file(self._path(md5))
            except FileNotFoundError:
                return False
        return True

    def modified(self, md5: str) -> datetime.datetime:
        """When the object was stored, by the store's own clock."""
        with self._asked():
            found: datetime.datetime = self.filesystem.modified(self._path(md5))
            return found

    def list(self) -> Iterator[tuple[str, int]]:
        """Names and sizes of everything in it, sorted by name."""
        with self._asked():
            there = self.filesystem.exists(self.root)
            found = self.filesystem.find(f"{self.root}/files/md5", detail=True) if there else {}
        for path, facts in sorted(found.items()):
            yield "".join(path.split("/")[-2:]), int(facts["size"])

    def _ask(self, md5: str, question: Callable[[Any], Answer]) -> Answer | None:
        with self._asked():
            try:
                with self.filesystem.open(self._path(md5), "rb") as file:
                    return question(file)
            except FileNotFoundError:
                return None

    def _path(self, md5: str) -> str:
        return f"{self.root}/{place(md5)}"

    def _asked(self) -> contextlib.AbstractContextManager[None]:
        if self.unreachable:
            raise store_unreachable(self.name, self.unreachable)
        return asking(self.name)


def place(md5: str) -> str:
    """DVC 3's layout, the same in caches and remotes."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def is_cached(workspace: Workspace, md5: str) -> bool:
    """Does a file of that name lie in the cache? What is in it is another question."""
    return (workspace.root / ".dvc" / "cache" / place(md5)).is_file()


def cache(workspace: Workspace) -> ObjectStore:
    return _folder(CACHE, workspace.root / ".dvc" / "cache")


def remote(workspace: Workspace, name: str) -> ObjectStore:
    """A remote by its name in .dvc/config: a folder is read as one, an address through DVC's own client."""
    try:
        address, folder = versioning.remote_address(workspace, name), versioning.remote_folder(workspace, name)
    except LclscError as error:
        return ObjectStore(name, unreachable=error.cause)
    if address is None:
        return ObjectStore(name, unreachable=f"no remote is called {name}")
    if folder is not None:
        return _folder(name, folder)
    try:
        return ObjectStore(name, *versioning.remote_filesystem(workspace, name))
    except Exception as error:  # DVC's own, of a client that is not installed too
        return ObjectStore(name, unreachable=str(error))


def _folder(name: str, root: Path) -> ObjectStore:
    if not root.is_dir():
        return ObjectStore(name, unreachable=f"{root} is not there", absent=True)
    return ObjectStore(name, LocalFileSystem(), str(root))
