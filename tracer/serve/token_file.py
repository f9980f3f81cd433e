"""The bearer token: random, in a file that only its owner can read."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

SAFE_LENGTH = 16
"""Characters below which a token of the user's own is called short."""


class TokenError(ValueError):
    """A token file that cannot be used; the message says why."""


def default_token_file(port: int) -> Path:
    """Where the token of the server on `port` is kept: in the user's state folder, or, where there is no home
    to write to, in a new temporary folder of mode 700."""
    folder = platformdirs.user_state_path("moescope", appauthor=False)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        folder = Path(tempfile.mkdtemp(prefix="moescope-"))
    return folder / f"serve-{port}.token"


def write_token(path: Path, address: str = "") -> str:
    """A fresh random token in a new file of mode 600; a stale file of that name is replaced.

    Args:
        address: the server's; it is noted in a file beside it, so that the app sends the token to nobody else.
    """
    token = secrets.token_urlsafe(32)
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o600), "w") as file:
        file.write(token + "\n")
    if address:
        _beside(path).write_text(address + "\n", encoding="ascii")
    return token


def remove_token(path: Path) -> None:
    """Remove a token file and the note of its server's address."""
    path.unlink(missing_ok=True)
    _beside(path).unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".address")


def token_for_address(path: Path, address: str) -> str:
    """The token of a file that a server at this address wrote.

    A path that somebody typed into a web page could name any file of this machine, and the address any server: so only
    files of ours are read out, and only to the server that wrote them.

    Raises:
        TokenError: the file was not written by `moescope serve`, or by a server at another address.
    """
    try:
        noted = _beside(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise TokenError(
            f"{path} is not a token file written by moescope serve; give the token itself instead"
        ) from None
    if _place(noted) != _place(address):
        raise TokenError(f"the token in {path} is for {noted}, not for {address}")
    return read_token(path)[0]


def _place(address: str) -> tuple[str, str, int | None]:
    parts = urlsplit(address.strip())
    return parts.scheme, (parts.hostname or "").lower(), parts.port


def read_token(path: Path) -> tuple[str, list[str]]:
    """The token in a file that the user named, and warnings: too short, or readable by others."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenError(f"cannot read the token file {path}: {error}") from None
    if not token or any(c.isspace() for c in token):
        raise TokenError(f"the token file {path} must contain one word")
    warnings = []
    if len(token) < SAFE_LENGTH:
        warnings.append(f"the token in {path} has fewer than {SAFE_LENGTH} characters: easy to guess")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        warnings.append(f"{path} has mode {mode:o}: others can read the token (chmod 600)")
    return token, warnings
