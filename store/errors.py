"""What can go wrong with a trace at rest. Every message is one line that a user can act on."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

_SECRET = re.compile(r"(://[^/@:\s]+):[^/@\s]+@")
"""The second half of the credentials in an address."""


class StoreError(Exception):
    """Anything the store refuses or could not do. `str(error)` is one line."""

    LONGEST = 2000
    """Characters of a message: what it quotes may be as long as a file."""

    def __init__(self, message: str):
        line = _SECRET.sub(r"\1:***@", " ".join(message.split()))
        super().__init__(line if len(line) <= self.LONGEST else f"{line[: self.LONGEST]} ...")


class NotATrace(StoreError):
    """There is no trace at that address."""


class DamagedTrace(StoreError):
    """The manifest can't be read."""


class NewerTrace(StoreError):
    """The trace was written in a version of the format that this moescope does not know."""


class DamagedPart(StoreError):
    """A listed part is missing, truncated or changed. `part` names it."""

    def __init__(self, part: str, message: str):
        super().__init__(message)
        self.part = part


class Unreachable(StoreError):
    """A file behind a URL could not be read now; nothing says that it is damaged."""


class TraceExists(StoreError):
    """A new trace was asked for where one lies already."""


class TraceLocked(StoreError):
    """Another writer is at work on the trace."""


class ResumeRefused(StoreError):
    """The trace there was made from something else than what is to be resumed."""


class BadPart(StoreError):
    """What was handed to the writer contradicts itself; nothing of it was written."""


class NotRecorded(StoreError):
    """What was asked needs something that the trace does not hold."""


class UnknownColumn(StoreError):
    """A filter, view or query names a column, value or parameter that the trace does not have."""


class BadArgument(StoreError):
    """A number or word that a view or a query does not take; the message names what it takes."""


class QueryRefused(StoreError):
    """An SQL statement that is not allowed, failed, or went over a limit."""


class DecisionRefused(StoreError):
    """A placement, cache, budget or choice that can't be made of this trace; the message says what would do."""


class ImportRefused(StoreError):
    """A file that can't be imported; the message names file, row and column.

    Messages quote what libraries say, and those quote the file: however long that is, a line stays one that can be
    read.
    """

    LONGEST = 600


_PLAIN = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this system allows",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the device reported an input/output error",
}


@contextmanager
def plain_os_errors(doing: str) -> Iterator[None]:
    """Turn an OSError into a StoreError that says what was being done and why it failed."""
    try:
        yield
    except OSError as error:
        reason = _PLAIN.get(error.errno or 0) or error.strerror or str(error)
        raise StoreError(f"{doing}: {reason}") from error
