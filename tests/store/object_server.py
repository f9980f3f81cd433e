"""A folder as an S3 bucket on loopback: enough of the protocol for Arrow's S3 client, with a delay on every request
and a count of what was asked and of how much at once. For tests and benchmarks of reading from far away.

    python tests/store/object_server.py FOLDER [SECONDS]    # prints its port; GET /_counts tells and resets the counts
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape


class Request(NamedTuple):
    verb: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


class ObjectServer:
    """Serves `root`; buckets are its folders.

    Args:
        delay: seconds before every answer.
    """

    def __init__(self, root: Path, delay: float = 0.0):
        self.root, self.delay = root, delay
        self.refused = "\0"
        """Objects with this in their path are refused, as a store does whose token has expired."""
        self.port = 0
        self._counts: Counter[str] = Counter()
        self._flying = self._most = 0
        self._uploads: dict[str, dict[int, bytes]] = {}

    def url(self, path: str) -> str:
        """Address of BUCKET/KEY for moescope."""
        return (
            f"s3://key:secret@{path}?scheme=http&endpoint_override=127.0.0.1:{self.port}"
            "&region=us-east-1&allow_bucket_creation=true"
        )

    def counts(self) -> dict[str, int]:
        """Requests by verb (`LIST` is a GET of a listing), `bytes` sent and `most` at once since the last call."""
        found = {**self._counts, "most": self._most}
        self._counts.clear()
        self._most = self._flying
        return found

    async def serve(self, ready: threading.Event | None = None) -> None:
        server = await asyncio.start_server(self._client, "127.0.0.1", self.port, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        if ready is None:
            print(self.port, flush=True)
        else:
            ready.set()
        async with server:
            await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                request = await _read_request(reader, writer)
                if request.path == "_counts":
                    answer = (200, {}, json.dumps(self.counts()).encode())
                else:
                    answer = await self._counted(request)
                _write_answer(writer, request.verb, *answer)
                await writer.drain()
        writer.close()

    async def _counted(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        verb = "LIST" if "list-type" in request.query else request.verb
        self._counts[verb] += 1
        self._flying += 1
        self._most = max(self._most, self._flying)
        try:
            await asyncio.sleep(self.delay)
            answer = self._answer(verb, request)
            self._counts["bytes"] += len(answer[2]) if verb == "GET" else 0
            return answer
        finally:
            self._flying -= 1

    def _answer(self, verb: str, request: Request) -> tuple[int, dict[str, str], bytes]:
        place = self.root / request.path
        if verb == "LIST":
            return 200, {}, self._listing(place, request.query)
        if self.refused in request.path and verb != "HEAD":
            return 403, {}, _xml("Error", Code="AccessDenied", Message="the token has expired")
        if verb in ("GET", "HEAD"):
            if place.parent == self.root:
                return (200 if place.is_dir() else 404), {}, b""
            return _object(place, verb, request.headers)
        if verb == "POST" and "uploads" in request.query:
            upload = uuid.uuid4().hex
            self._uploads[upload] = {}
            return 200, {}, _xml("InitiateMultipartUploadResult", UploadId=upload)
        if verb == "PUT" and "partNumber" in request.query:
            self._uploads[request.query["uploadId"][0]][int(request.query["partNumber"][0])] = request.body
            return 200, {"ETag": '"part"'}, b""
        if verb == "POST" and "uploadId" in request.query:
            parts = self._uploads.pop(request.query["uploadId"][0])
            _put(place, b"".join(parts[number] for number in sorted(parts)))
            return 200, {}, _xml("CompleteMultipartUploadResult", ETag='"whole"')
        if verb == "PUT":
            if request.path.endswith("/") or "/" not in request.path:
                place.mkdir(parents=True, exist_ok=True)
            else:
                _put(place, request.body)
            return 200, {"ETag": '"whole"'}, b""
        if verb == "DELETE":
            place.unlink(missing_ok=True) if place.is_file() else shutil.rmtree(place, ignore_errors=True)
            return 204, {}, b""
        return 501, {}, b""

    def _listing(self, bucket: Path, query: dict[str, list[str]]) -> bytes:
        """Keys under a prefix; with a delimiter, those behind the next `/` as common prefixes."""
        prefix = query.get("prefix", [""])[0]
        folder = bucket / prefix.rpartition("/")[0]
        places = folder.glob("*") if "delimiter" in query else folder.rglob("*")
        found = []
        for place in sorted(places):
            key = place.relative_to(bucket).as_posix()
            if key.startswith(prefix) and place.is_file():
                found.append(
                    f"<Contents><Key>{escape(key)}</Key><Size>{place.stat().st_size}</Size>"
                    "<ETag>&quot;x&quot;</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                )
            elif key.startswith(prefix) and "delimiter" in query:
                found.append(f"<CommonPrefixes><Prefix>{escape(key)}/</Prefix></CommonPrefixes>")
        body = f"<KeyCount>{len(found)}</KeyCount><IsTruncated>false</IsTruncated>{''.join(found)}"
        return f'<?xml version="1.0"?><ListBucketResult>{body}</ListBucketResult>'.encode()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    verb, target, _ = head[0].split(" ", 2)
    pairs = (line.split(":", 1) for line in head[1:] if ":" in line)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get("transfer-encoding") == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    if "aws-chunked" in headers.get("content-encoding", ""):
        body = _unchunked(body)
    path, _, query = target.partition("?")
    return Request(verb, unquote(path).lstrip("/"), parse_qs(query, keep_blank_values=True), headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    out = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        out.append(await reader.readexactly(size))
        await reader.readline()
    while await reader.readline() != b"\r\n":
        pass
    return b"".join(out)


def _unchunked(data: bytes) -> bytes:
    """The content of a body in pieces, each behind its length in hexadecimal."""
    out, at = [], 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end].split(b";")[0], 16)
        if size == 0:
            return b"".join(out)
        out.append(data[end + 2 : end + 2 + size])
        at = end + 4 + size


def _object(place: Path, verb: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    if not place.is_file():
        return 404, {}, b"" if verb == "HEAD" else _xml("Error", Code="NoSuchKey", Message="none")
    size = place.stat().st_size
    about = {"ETag": '"x"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
    if verb == "HEAD":
        return 200, about | {"Content-Length": str(size)}, b""
    first, last, status = 0, size - 1, 200
    if wanted := headers.get("range"):
        low, _, high = wanted.removeprefix("bytes=").partition("-")
        first, last, status = int(low), min(int(high or size - 1), size - 1), 206
        about["Content-Range"] = f"bytes {first}-{last}/{size}"
    with place.open("rb") as file:
        file.seek(first)
        return status, about, file.read(last - first + 1)


def _put(place: Path, data: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)


def _xml(name: str, **fields: str) -> bytes:
    inside = "".join(f"<{field}>{escape(value)}</{field}>" for field, value in fields.items())
    return f'<?xml version="1.0"?><{name}>{inside}</{name}>'.encode()


def _write_answer(
    writer: asyncio.StreamWriter, verb: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    headers = {"Content-Length": str(len(body)), "Content-Type": "application/xml"} | headers
    lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if verb == "HEAD" else body))


@contextlib.contextmanager
def serving(root: Path, delay: float = 0.0) -> Iterator[ObjectServer]:
    """A server in a thread of this process."""
    server, ready, loop = ObjectServer(root, delay), threading.Event(), asyncio.new_event_loop()
    task = loop.create_task(server.serve(ready))

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        for client in asyncio.all_tasks(loop):
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(client)
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(lambda: [each.cancel() for each in asyncio.all_tasks(loop)])
        thread.join(10)


if __name__ == "__main__":
    asyncio.run(ObjectServer(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0).serve())
