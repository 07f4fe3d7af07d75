"""What a bad disk does to a file."""

import os
from pathlib import Path


def change_a_byte(path: Path) -> None:
    """Length, time and rights stay, so that nobody notices who does not read it."""
    before, content = path.stat(), path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
