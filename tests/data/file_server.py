"""A file server on the loopback that cuts, stalls and refuses as told, and archives for it to serve."""

from __future__ import annotations

import io
import tarfile
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Serves `files` by path. A path's `faults` are taken by one request each.

    A fault is a status to answer with, or a pair: `("cut", n)` closes the connection after n bytes of the body,
    `("stall", n)` keeps silent after n bytes, -1 for not even a header, `("drip", n)` sends single bytes after n.
    `ends`: how a client sees the end of the body: by its "length", its last "chunk", or only by a "closed" connection.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list] = {}
        self.ranges, self.pause = True, 0.0  # does it know Range; s after each block of 16 KiB, and each dripped byte
        self.ends = "length"
        self.seen: list[tuple[str, str | None]] = []  # path, Range
        self.served = 0  # bytes of files
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass  # a client that was killed


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server, path, wanted = self.server, self.path, self.headers.get("Range")
        server.seen.append((path, wanted))
        fault = server.faults[path].pop(0) if server.faults.get(path) else None
        if isinstance(fault, int) or path not in server.files:
            return self._answer(fault or 404, b"", {})
        body = server.files[path]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if start >= len(body) > 0:
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        about = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        self._answer(206 if start else 200, body[start:], about, fault)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], fault: tuple[str, int] | None = None):
        kind, most = fault or ("", len(body))
        if most >= 0:
            self.send_response(status)
            framing = {"length": ("Content-Length", str(len(body))), "chunk": ("Transfer-Encoding", "chunked")}
            for name, value in [*filter(None, [framing.get(self.server.ends)]), *headers.items()]:
                self.send_header(name, value)
            self.end_headers()
            first = min(most, len(body))
            ends = [*range(16384, first, 16384), first, *(range(first + 1, len(body) + 1) if kind == "drip" else ())]
            for start, end in zip([0, *ends], ends, strict=False):
                self.server.served += end - start  # before it arrives
                self._send(body[start:end])
                time.sleep(self.server.pause)
            if self.server.ends == "chunk" and not kind:
                self.wfile.write(b"0\r\n\r\n")
        if kind == "stall":
            self.server.closing.wait(60)
        self.close_connection = bool(kind) or self.server.ends == "closed"

    def _send(self, block: bytes):
        chunk = self.server.ends == "chunk" and block
        self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if chunk else block)


@contextmanager
def serving():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


def make_zip(path: Path, members: dict[str, bytes], link: str | None = None) -> Path:
    """A zip archive; the member `link` is marked as a symbolic link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.filename = name  # ZipInfo would turn what it takes for this system's separators
            info.external_attr = (0o120777 if name == link else 0o100644) << 16
            file.writestr(info, content)
    return path


def make_tar(path: Path, members: dict[str, bytes | tuple[bytes, str]], mode: str = "w:gz") -> Path:
    """A tar archive of files, or of (type, link target) for what is no file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


def names(folder: Path) -> list[str]:
    """All files below a folder, as relative paths."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}
