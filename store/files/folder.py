"""A folder that holds a trace, on a local disk or behind any pyarrow or fsspec address.

Promise: after `put` returns, the file is there whole under its name, also after a power cut; before that
there is no file of that name that ends in `.parquet`, or the old one. Local pattern: write `NAME.writing`,
flush it, rename it, flush the folder. Object stores publish an object only when its upload ends, so there
`put` is one upload. Accepted: a local file system that lies about fsync can lose the last part, never an
earlier one.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from ..errors import NotATrace, StoreError, plain_os_errors
from .remote import RemoteParquet, allow_requests

WRITING = ".writing"


class Folder(Protocol):
    """Files by their path inside the folder, with `/` between the parts of a path."""

    url: str
    local_path: Path | None
    """Where it lies on this machine, or None."""

    def read(self, path: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        ...

    def open(self, path: str) -> pa.NativeFile:
        """The file for random access. Raises FileNotFoundError."""
        ...

    def parquet(self, path: str, size: int) -> RemoteParquet | None:
        """The Parquet file of a known size for reading from far away; None where it is better opened."""
        ...

    def put(self, path: str, data: bytes | memoryview) -> None:
        """Write or replace a file, all or nothing, and durably. Raises OSError."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        ...

    def arrow_filesystem(self) -> tuple[Any, str]:
        """The pyarrow filesystem and the folder's path in it."""
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """Name and size in bytes of the files in a sub-folder ("": the folder itself); empty where there is none."""
        ...


class LocalFolder:
    def __init__(self, path: str | os.PathLike[str]):
        self.local_path: Path | None = Path(os.path.realpath(path))
        self._root = self.local_path
        self.url = str(path)

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def open(self, path: str) -> pa.NativeFile:
        # Not mapped: a file that is truncated while it is mapped ends the process.
        return pa.OSFile(str(self._root / path))

    def parquet(self, path: str, size: int) -> None:
        return None

    def put(self, path: str, data: bytes | memoryview) -> None:
        target = self._root / path
        temporary = target.with_name(target.name + WRITING)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_durably(temporary, data)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _flush_folder(target.parent)

    def remove(self, path: str) -> None:
        (self._root / path).unlink(missing_ok=True)

    def arrow_filesystem(self) -> tuple[Any, str]:
        from pyarrow import fs

        return fs.LocalFileSystem(), str(self._root)

    def sizes(self, folder: str) -> dict[str, int]:
        try:
            names = os.listdir(self._root / folder)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        found = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # renamed or removed by a writer meanwhile
                status = os.stat(self._root / folder / name)
                if stat.S_ISREG(status.st_mode):
                    found[name] = status.st_size
        return found


def _write_durably(path: Path, data: bytes | memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(data)
        while view.nbytes:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems refuse to flush a folder; the rename itself is still atomic there.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RemoteFolder:
    """A folder behind `s3://`, `gs://`, `hf://`, `memory://`, ...: no renames, uploads appear when they
    end."""

    def __init__(self, url: str):
        from pyarrow import fs

        self.url = url
        self.local_path: Path | None = None
        allow_requests()
        try:
            self._fs, self._root = fs.FileSystem.from_uri(url)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            self._fs, self._root = _fsspec(url)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{url}: {error}") from error
        self._file_type = fs.FileType

    def _path(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    def read(self, path: str) -> bytes:
        with self.open(path) as stream:
            return stream.read()

    def open(self, path: str) -> pa.NativeFile:
        return self._fs.open_input_file(self._path(path))

    def parquet(self, path: str, size: int) -> RemoteParquet:
        return RemoteParquet(self._fs, self._path(path), size)

    def put(self, path: str, data: bytes | memoryview) -> None:
        target = self._path(path)
        self._fs.create_dir(target.rsplit("/", 1)[0], recursive=True)
        with self._fs.open_output_stream(target) as stream:
            stream.write(data)

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self._path(path))

    def arrow_filesystem(self) -> tuple[Any, str]:
        return self._fs, self._root

    def sizes(self, folder: str) -> dict[str, int]:
        from pyarrow import fs

        place = self._path(folder) if folder else self._root
        if isinstance(self._fs, fs.PyFileSystem) and isinstance(self._fs.handler, fs.FSSpecHandler):
            self._fs.handler.fs.invalidate_cache(place)  # others write here too
        infos = self._fs.get_file_info(fs.FileSelector(place, allow_not_found=True))
        return {info.base_name: info.size for info in infos if info.type == self._file_type.File}


def _fsspec(url: str) -> tuple[Any, str]:
    import fsspec
    from pyarrow import fs

    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StoreError(f"{url}: {error}") from error

    class Handler(fs.FSSpecHandler):
        """fsspec reads 5 MB on from every place that is asked for; Arrow asks for what it needs."""

        def open_input_file(self, path: str) -> pa.PythonFile:
            if not self.fs.isfile(path):
                raise FileNotFoundError(path)
            return pa.PythonFile(self.fs.open(path, mode="rb", cache_type="none"), mode="r")

    return fs.PyFileSystem(Handler(filesystem)), root


def is_far(url: str | os.PathLike[str]) -> bool:
    """Whether an address is of another place than a local disk."""
    text = os.fspath(url)
    return "://" in text and not text.startswith("file://")


def open_folder(url: str | os.PathLike[str], *, create: bool = False) -> Folder:
    """The folder at a path or URL.

    Args:
        create: make a local folder that is not there yet.
    Raises:
        NotATrace: a local path that is not a folder, or a web address.
        StoreError: no such file system, or the folder can't be made.
    """
    text = os.fspath(url)
    if not text:
        raise NotATrace("no folder was given")
    if text.startswith(("http://", "https://")):
        raise NotATrace(
            f"{text}: a web address is not a folder; download the trace, or give it as s3://, gs:// or hf://"
        )
    if is_far(text):
        return RemoteFolder(text)
    path = Path(text.removeprefix("file://"))
    if create:
        with plain_os_errors(f"{path}: can't make the folder"):
            path.mkdir(parents=True, exist_ok=True)
    elif not path.is_dir():
        raise NotATrace(f"{path}: there is no such folder")
    return LocalFolder(path)
