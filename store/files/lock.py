"""One writer at a time.

On a local disk the lock is an flock on a file beside the manifest: it dies with its process, whatever kills
it. (A library such as filelock would do for writers; readers ask whether a writer is at work without writing anything,
by a shared flock, which it does not offer: test_a_reader_asks_whether_a_writer_is_at_work_without_writing.)

Where flock does not work (object stores, some network disks) the lock is a small object with a heartbeat:

1. A thread of the writer counts it up every `BEAT_SECONDS`, however long a commit takes.
2. Who wants to write watches it for `WATCH_SECONDS`: a count that stands still is a dead writer's. No clock of another
   machine is believed. A writer of this machine whose process is gone is dead at once.
3. The writer looks before every file that it puts whether the lock is still its own, and stops where it is not.

What it does not promise: two writers that start within the same second can both begin; the one whose name does not
stand in the object afterwards stops at its first file.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import socket
import threading
import time
import uuid
from typing import Any

from ..errors import StoreError, TraceLocked, plain_os_errors
from .folder import Folder

fcntl: Any = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None
"""None on Windows, where the heartbeat serves."""

LOCK_NAME = ".writer.lock"
HEARTBEAT_NAME = ".writer.json"
BEAT_SECONDS = 10.0
WATCH_SECONDS = 35.0
"""More than three beats: a store that answers late does not make a living writer look dead."""
READS = 3
"""How often a heartbeat is read before it counts as none: where a store does not replace objects at once, half of
one may be read, and its writer lives."""
STALE_SECONDS = 60.0
"""Age of a heartbeat beyond which a reader, who never waits, takes the writer for dead; by the reader's clock."""


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

    def check(self) -> None:
        """A held flock cannot be taken over."""

    def release(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1


class HeartbeatLock:
    """An object with the writer's token and a count that its thread keeps raising."""

    def __init__(self, folder: Folder):
        self._folder = folder
        self.token = uuid.uuid4().hex
        self._beat = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="moescope-heartbeat", daemon=True)

    def acquire(self) -> None:
        owner = _heartbeat(self._folder)
        if owner and not _process_is_gone(owner) and self._is_beating(owner):
            raise TraceLocked(
                f"{self._folder.url}: {owner.get('host')} (process {owner.get('pid')}) is writing this trace"
            )
        self._put()
        self.check()
        self._thread.start()

    def _is_beating(self, owner: dict) -> bool:
        """Whether the count of another writer moves while it is watched."""
        until = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < until:
            time.sleep(min(1.0, WATCH_SECONDS / 4))
            now = _heartbeat(self._folder)
            if now is None:
                return False
            if (now["token"], now.get("beat")) != (owner["token"], owner.get("beat")):
                return True
        return False

    def check(self) -> None:
        """Raises TraceLocked where another took over; asked before every file that is put."""
        owner = _heartbeat(self._folder)
        if owner is None or owner["token"] != self.token:
            raise TraceLocked(f"{self._folder.url}: another writer took over this trace")

    def _put(self) -> None:
        self._beat += 1
        now = {"token": self.token, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        with plain_os_errors(f"{self._folder.url}: can't write here"):
            self._folder.put(HEARTBEAT_NAME, json.dumps(now | {"beat": self._beat}).encode())

    def _keep_beating(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            try:
                self.check()
                self._put()
            except TraceLocked:
                return  # whoever writes next is told by its own check
            except (StoreError, OSError):
                continue  # the store is away for a moment; the next file that is put says so if it stays away

    def release(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        owner = _heartbeat(self._folder)
        if owner and owner["token"] == self.token:
            self._folder.remove(HEARTBEAT_NAME)


def _process_is_gone(owner: dict) -> bool:
    """Whether the writer was a process of this machine that has ended."""
    if owner.get("host") != socket.gethostname() or not isinstance(owner.get("pid"), int):
        return False
    if owner["pid"] == os.getpid():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError, OSError):
        return False
    return False


def _heartbeat(folder: Folder) -> dict | None:
    for _ in range(READS):
        try:
            owner = json.loads(folder.read(HEARTBEAT_NAME))
        except FileNotFoundError:
            return None
        except ValueError:
            continue
        good = isinstance(owner, dict) and isinstance(owner.get("time"), (int, float)) and "token" in owner
        return owner if good else None
    return None


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
    return bool(owner) and abs(time.time() - float(owner["time"])) < STALE_SECONDS
