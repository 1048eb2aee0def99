"""A hub on this machine that can misbehave: it drops connections, truncates, corrupts and refuses."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub:
    """Files of one repository `some/model`, and a list of mishaps that are used up one by one."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.mishaps: list[str] = []  # drop, corrupt, 500, 429: each spoils one transfer of a large file
        self.refuse = 0  # a status for everything
        self.sent = 0  # bytes of large files
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = unquote(request.path.split("?")[0])
        if self.refuse:
            extra = {"X-Error-Code": "GatedRepo"} if self.refuse == 403 else {}
            return self._send(request, self.refuse, b"no", extra, body)
        if path.startswith("/api/models/some/model"):
            siblings = [
                {"rfilename": name, "size": len(data)}
                | (
                    {"lfs": {"sha256": _sha(data), "size": len(data), "pointerSize": 100}}
                    if _large(name)
                    else {}
                )
                for name, data in self.files.items()
            ]
            info = {
                "id": "some/model",
                "modelId": "some/model",
                "sha": COMMIT,
                "siblings": siblings,
                "tags": [],
            }
            return self._send(request, 200, json.dumps(info).encode(), {}, body)
        name = path.rpartition("/")[2]
        if not path.startswith("/some/model/resolve/") or name not in self.files:
            return self._send(request, 404, b"", {"X-Error-Code": "RepoNotFound"}, body)
        data = self.files[name]
        headers = {"ETag": f'"{_sha(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if not body:
            return self._send(request, 200, data, headers, body)
        self.asked.append(f"{name} {request.headers.get('Range', '')}".strip())
        mishap = self.mishaps.pop(0) if self.mishaps and _large(name) else ""
        if mishap.isdigit():
            return self._send(request, int(mishap), b"busy", {}, body)
        start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        part = data[start:]
        if mishap == "corrupt":
            part = part[:-1] + bytes([part[-1] ^ 1])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if _large(name):
            self.sent += len(part)
        return self._send(request, 206 if start else 200, part, headers, body, half=mishap == "drop")

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: dict[str, str],
        body: bool,
        half: bool = False,
    ) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(key, value)
        request.end_headers()
        if body:
            request.wfile.write(data[: len(data) // 2] if half else data)
        if half:
            self.sent -= len(data) - len(data) // 2
            request.wfile.flush()
            request.close_connection = True

    @contextmanager
    def running(self) -> Iterator["LocalHub"]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()


def _large(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf", ".bin"))


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
