"""A local server that speaks the part of the Hugging Face Hub's HTTP API that mwc needs.

`GET /api/models/<id>[/revision/<rev>]` describes a model, `HEAD` and `GET
/<id>/resolve/<rev>/<file>` serve its files with ranges, a commit and an ETag, and errors carry
the hub's `X-Error-Code`.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class FakeHub:
    """What the server holds and what it saw.

    Attributes:
        models: files' folder by id.
        commits: commit by revision, the same for every model.
        gated: ids that need a login.
        requests: "METHOD path", with the status, in order.
        cut: names of files whose next GET is broken off half way.
    """

    models: dict[str, Path]
    commits: dict[str, str] = field(default_factory=lambda: {"main": "a" * 40, "v1": "b" * 40})
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)
    url: str = ""

    def downloads(self, name: str) -> int:
        """How often a file's content was sent."""
        return sum(r.startswith("GET") and f"/{name} 2" in r for r in self.requests)


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Run the server on a free port of this machine while the block runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._model(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[2], found[3])
        else:
            self._send(404, b"", {})

    def _commit(self, model: str, revision: str) -> str | None:
        """The commit of a revision; None after an error has been sent."""
        if model in self.hub.gated:
            self._send(401, b"{}", {"X-Error-Code": "GatedRepo"})
        elif model not in self.hub.models:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif revision in self.hub.commits.values():
            return revision
        elif revision not in self.hub.commits:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            return self.hub.commits[revision]
        return None

    def _model(self, model: str, revision: str) -> None:
        commit = self._commit(model, revision)
        if commit is None:
            return
        files = sorted(self.hub.models[model].iterdir())
        siblings = [{"rfilename": f.name, "size": f.stat().st_size} for f in files]
        body = {"_id": "1", "id": model, "modelId": model, "sha": commit, "siblings": siblings,
                "private": False, "gated": False, "disabled": False, "tags": [], "downloads": 0,
                "likes": 0}  # fmt: skip
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, model: str, revision: str, name: str) -> None:
        commit = self._commit(model, revision)
        if commit is None:
            return
        path = self.hub.models[model] / name
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        data = path.read_bytes()
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        status, total = 200, len(data)
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin = int(found[1])
            data = data[begin : int(found[2]) + 1 if found[2] else None]
            headers["Content-Range"] = f"bytes {begin}-{begin + len(data) - 1}/{total}"
            status = 206
        cut = self.command == "GET" and name in self.hub.cut
        self._send(status, data, headers, cut=cut)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False
    ) -> None:
        self.hub.requests.append(f"{self.command} {self.path} {status}")
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True
