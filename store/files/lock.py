"""One writer at a time.

On a local disk the lock is an flock on a file beside the manifest: it dies with its process, whatever kills
it. Where flock does not work (object stores, some network disks) the lock is a small object with a heartbeat
that each commit renews; a writer that has been silent for `STALE_SECONDS` counts as dead. That second form
can't stop two writers that start within the same instant; it stops the ones that people start by mistake.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import socket
import time
import uuid
from typing import Any

from ..errors import StoreError, TraceLocked, plain_os_errors
from .folder import Folder

fcntl: Any = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None
"""None on Windows, where the heartbeat serves."""

LOCK_NAME = ".writer.lock"
HEARTBEAT_NAME = ".writer.json"
STALE_SECONDS = 900.0


class FileLock:
    """flock on a local file. A process that only asks (`is_held`) holds it for an instant: hence the
    retries."""

    def __init__(self, folder: Folder):
        assert folder.local_path is not None
        self._path = folder.local_path / LOCK_NAME
        self._name = folder.url
        self._descriptor = -1

    def acquire(self) -> None:
        for attempt in range(20):
            with plain_os_errors(f"{self._name}: can't write here"):
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                time.sleep(0.01 * (attempt + 1))
                continue
            except OSError:
                os.close(descriptor)
                raise
            if self._is_current(descriptor):
                self._descriptor = descriptor
                return
            os.close(descriptor)
        raise TraceLocked(f"{self._name}: another process is writing this trace")

    def _is_current(self, descriptor: int) -> bool:
        """Whether the locked file is still the one that lies there: its owner removes it when done."""
        try:
            return os.stat(self._path).st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            return False

    def renew(self) -> None:
        """A held flock needs no heartbeat."""

    def release(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1


class HeartbeatLock:
    """An object with the writer's token and the time of its last commit."""

    def __init__(self, folder: Folder):
        self._folder = folder
        self._token = uuid.uuid4().hex

    def acquire(self) -> None:
        owner = _heartbeat(self._folder)
        if owner and time.time() - float(owner["time"]) < STALE_SECONDS:
            raise TraceLocked(
                f"{self._folder.url}: {owner.get('host')} (process {owner.get('pid')}) is writing this trace"
            )
        self.renew()

    def renew(self) -> None:
        """Say that this writer lives. Raises TraceLocked where another took over."""
        owner = _heartbeat(self._folder)
        if owner and owner["token"] != self._token and time.time() - float(owner["time"]) < STALE_SECONDS:
            raise TraceLocked(f"{self._folder.url}: another writer took over this trace")
        now = {"token": self._token, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        with plain_os_errors(f"{self._folder.url}: can't write here"):
            self._folder.put(HEARTBEAT_NAME, json.dumps(now).encode())

    def release(self) -> None:
        owner = _heartbeat(self._folder)
        if owner and owner["token"] == self._token:
            self._folder.remove(HEARTBEAT_NAME)


def _heartbeat(folder: Folder) -> dict | None:
    try:
        owner = json.loads(folder.read(HEARTBEAT_NAME))
    except (FileNotFoundError, ValueError):
        return None
    return owner if isinstance(owner, dict) and {"token", "time"} <= owner.keys() else None


def acquire_lock(folder: Folder) -> FileLock | HeartbeatLock:
    """Become the one writer of a folder.

    Raises:
        TraceLocked: someone else is.
        StoreError: the folder can't be written.
    """
    if folder.local_path is not None and fcntl is not None:
        lock = FileLock(folder)
        try:
            lock.acquire()
            return lock
        except StoreError:
            raise
        except OSError:
            # No flock on this file system: fall through to the heartbeat.
            with contextlib.suppress(OSError):
                folder.remove(LOCK_NAME)
    heartbeat = HeartbeatLock(folder)
    heartbeat.acquire()
    return heartbeat


def is_being_written(folder: Folder) -> bool:
    """Whether a writer is at work now; never blocks, never writes."""
    if folder.local_path is not None and fcntl is not None:
        try:
            descriptor = os.open(folder.local_path / LOCK_NAME, os.O_RDONLY)
        except OSError:
            descriptor = -1
        if descriptor >= 0:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:
                return False
            finally:
                os.close(descriptor)
    owner = _heartbeat(folder)
    return bool(owner) and time.time() - float(owner["time"]) < STALE_SECONDS
