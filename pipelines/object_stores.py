"""Where DVC keeps objects, read directly: the cache and the remotes, a file an object, named by its MD5.

DVC's own questions (``status -c``, ``push``) trust what they noted earlier and miss objects that were
deleted or altered since; these read the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from pipelines import versioning
from pipelines.errors import LclscError
from pipelines.files import md5_bytes
from pipelines.workspace import Workspace

CACHE = "cache"


class StoreUnreachableError(Exception):
    """The store cannot be asked: whether it holds an object is unknown."""


@dataclass(frozen=True)
class ObjectStore:
    """``opener`` gives an object's bytes by its place below the store; FileNotFoundError where it is not there."""

    name: str
    opener: Callable[[str], BufferedReader]

    def read(self, md5: str) -> bytes | None:
        """The object's bytes, whatever they are; None where it is not there."""
        try:
            with self.opener(place(md5)) as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnreachableError(str(error)) from error

    def read_intact(self, md5: str) -> bytes | None:
        """The object's bytes if they are the ones its name says."""
        content = self.read(md5)
        return content if content is not None and md5_bytes(content) == md5.removesuffix(".dir") else None

    def hash(self, md5: str, algorithm: str) -> str | None:
        """The object's hash, streamed; None where it is not there."""
        try:
            with self.opener(place(md5)) as file:
                return hashlib.file_digest(file, algorithm).hexdigest()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnreachableError(str(error)) from error


def place(md5: str) -> str:
    """DVC 3's layout, the same in caches and remotes."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def cache(workspace: Workspace) -> ObjectStore:
    return _folder(CACHE, workspace.root / ".dvc" / "cache")


def remote(workspace: Workspace, name: str) -> ObjectStore:
    """A remote by its name in .dvc/config: a folder is read as one, an address through DVC's own client."""
    address = versioning.remote_address(workspace, name)
    if address is None:
        return ObjectStore(name, _unreachable(f"no remote is called {name}"))
    if "://" not in address:
        return _folder(name, (workspace.root / ".dvc" / address).resolve())
    try:
        return ObjectStore(name, versioning.remote_opener(workspace, name))
    except (LclscError, OSError) as error:
        return ObjectStore(name, _unreachable(str(error)))


def _folder(name: str, root: Path) -> ObjectStore:
    if not root.is_dir():
        return ObjectStore(name, _unreachable(f"{name} is not there"))
    return ObjectStore(name, lambda inner: (root / inner).open("rb"))


def _unreachable(cause: str) -> Callable[[str], BufferedReader]:
    def opener(_: str) -> BufferedReader:
        raise StoreUnreachableError(cause)

    return opener
