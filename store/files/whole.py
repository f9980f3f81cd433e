"""A file that is written whole or not at all: a full disk leaves what was there before, and nothing beside it."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write or replace a file; text as UTF-8. What is no regular file (a pipe, /dev/stdout) is written as it is; a link
    is followed.

    Raises:
        OSError: it can't be written. An old file of that name is then as it was.
    """
    content = data.encode() if isinstance(data, str) else data
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        target.write_bytes(content)
        return
    if not target.parent.is_dir():  # said by the name that was asked for, not by that of the file beside it
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(Path(path).parent))
    temporary = target.with_name(f".{target.name[:200]}.writing-{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_bytes(content)
        if target.exists():
            os.chmod(temporary, target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
