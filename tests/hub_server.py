"""A stand-in for the hub on loopback, with faults on request; real clients speak to it.

It answers as huggingface_hub 1 and 2 expect: repository information, references, `resolve` with
the headers that describe a file, a redirect to a signed address at a second host for large files,
and ranges.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Kind = Literal["hang", "truncate", "wrong", "no-etag", "page", 401, 403, 404, 418, 429, 503]
_ERROR_CODES = {403: "GatedRepo", 404: "RepoNotFound"}
_INFO = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/revision/(.+))?")
_REFS = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)/refs")
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    host: str
    range: str | None
    authorization: str | None


@dataclass
class Fault:
    """What goes wrong with requests whose method and path match.

    Attributes:
        pattern: Of ``GET /path``, searched for.
        kind: ``hang``, ``truncate`` the body to a half, a ``wrong`` body, headers with ``no-etag``,
            a web ``page`` instead of an answer, or a status.
        times: How often before it is over; None is always.
        after: How many that match are answered well before.
    """

    pattern: str
    kind: Kind
    times: int | None = None
    after: int = 0


@dataclass
class Repository:
    """Files by commit, and the commits that names stand for."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str | None) -> str | None:
        """Return the commit that a revision stands for."""
        name = unquote(revision or "main")
        commit = self.branches.get(name, name)
        return commit if commit in self.commits else None


class StandInHub:
    """Repositories and plain files, faults, and what was asked for.

    Attributes:
        large_bytes: Files of at least so many bytes are stored apart, under their sha256.
        files: Plain downloads by path.
        faults: In order; the first that matches holds.
        seen: Every request.
        token: What a request must bear to be answered, if anything.
        uses_per_address: How often a signed address is good for content; None is always.
        tells_size: Whether a refusal of a range beyond the end says where the end is.
        bytes_per_second: How fast content comes; None is as fast as it can.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.token: str | None = None
        self.uses_per_address: int | None = None
        self.uses: list[int] = []
        self.tells_size = True
        self.bytes_per_second: int | None = None
        self.large_bytes = 1000
        self.closing = threading.Event()
        self.port = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The address for ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self.port}"

    def add(
        self,
        repo: str,
        files: Mapping[str, bytes],
        *,
        branch: str = "main",
        kind: str = "model",
    ) -> str:
        """Put a commit of some files on a branch; return the commit."""
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        commit = hashlib.sha1(repo.encode() + content).hexdigest()
        repository = self.repositories.setdefault((kind, repo), Repository())
        repository.commits[commit] = dict(files)
        repository.branches[branch] = commit
        return commit

    def fail(self, pattern: str, kind: Kind, times: int | None = None, *, after: int = 0) -> None:
        """Let requests that match go wrong from now on."""
        self.faults.append(Fault(pattern, kind, times, after))

    def heal(self) -> None:
        """Answer everything well from now on, and forget what was asked."""
        self.faults.clear()
        self.seen.clear()

    def next_fault(self, request: str) -> Kind | None:
        """Return what goes wrong with a request, and count it."""
        with self._lock:
            for fault in self.faults:
                if fault.times != 0 and re.search(fault.pattern, request):
                    if fault.after:
                        fault.after -= 1
                        continue
                    if fault.times is not None:
                        fault.times -= 1
                    return fault.kind
        return None

    def sign(self) -> int:
        """Return the number of a new address."""
        with self._lock:
            self.uses.append(0)
            return len(self.uses) - 1

    def has_expired(self, address: int) -> bool:
        """Return whether a signed address has been used up, and count the use."""
        with self._lock:
            self.uses[address] += 1
            return self.uses_per_address is not None and self.uses[address] > self.uses_per_address

    def blob(self, digest: str) -> bytes | None:
        """Return a large file by its sha256."""
        contents = (
            data
            for repository in self.repositories.values()
            for files in repository.commits.values()
            for data in files.values()
        )
        return next((c for c in contents if hashlib.sha256(c).hexdigest() == digest), None)

    def ranges(self) -> list[str]:
        """Return the ranges that were asked for."""
        return [seen.range for seen in self.seen if seen.range]

    def num_gets(self, pattern: str) -> int:
        """Return how many requests for content matched."""
        return sum(s.method == "GET" and bool(re.search(pattern, s.path)) for s in self.seen)


@contextmanager
def standing_in() -> Iterator[StandInHub]:
    """Serve a hub until the block ends."""
    hub = StandInHub()

    class Handler(_Handler):
        stand_in = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        hub.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.closing.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandInHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""

    def _answer(self) -> None:
        hub, path = self.stand_in, urlsplit(self.path).path
        at_store = path.startswith("/cdn/")
        headers = self.headers
        hub.seen.append(
            Seen(self.command, path, headers["Host"], headers["Range"], headers["Authorization"])
        )
        fault = hub.next_fault(f"{self.command} {path}")
        if fault == "hang":
            hub.closing.wait()
            self.close_connection = True
        elif at_store and hub.has_expired(int(urlsplit(self.path).query)):
            self._refuse(403)
        elif isinstance(fault, int):
            self._refuse(fault, None if at_store else _ERROR_CODES.get(fault))
        elif fault == "page":
            self._send(b"<html>Welcome</html>", {"Content-Type": "text/html"}, None)
        elif hub.token and not at_store and not self._is_known():
            self._refuse(401)
        else:
            self._route(path, fault)

    def _is_known(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {self.stand_in.token}"

    def _route(self, path: str, fault: Kind | None) -> None:
        hub = self.stand_in
        if match := _REFS.fullmatch(path):
            self._tell_references(hub.repositories.get((match[1], match[2])))
        elif match := _INFO.fullmatch(path):
            self._tell_information(match[2], hub.repositories.get((match[1], match[2])), match[3])
        elif match := _RESOLVE.fullmatch(path):
            kind = "dataset" if match[1] else "model"
            self._resolve(hub.repositories.get((kind, match[2])), match[3], match[4], fault)
        else:
            blob = hub.blob(path[5:]) if path.startswith("/cdn/") else hub.files.get(path)
            self._send(blob, {}, fault) if blob is not None else self._refuse(404, "RepoNotFound")

    def _tell_references(self, repository: Repository | None) -> None:
        if repository is None:
            return self._refuse(404, "RepoNotFound")
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in repository.branches.items()
        ]
        return self._send_json({"branches": branches, "tags": [], "converts": []})

    def _tell_information(
        self, repo: str, repository: Repository | None, revision: str | None
    ) -> None:
        if repository is None:
            return self._refuse(404, "RepoNotFound")
        commit = repository.find(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        siblings = [self._describe(n, data) for n, data in repository.commits[commit].items()]
        return self._send_json({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings})

    def _describe(self, name: str, data: bytes) -> dict[str, Any]:
        entry = {"rfilename": name, "size": len(data), "blobId": _git_digest(data)}
        if len(data) >= self.stand_in.large_bytes:
            sha = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 134}
        return entry

    def _resolve(
        self, repository: Repository | None, revision: str, name: str, fault: Kind | None
    ) -> None:
        commit = repository.find(revision) if repository else None
        if repository is None or commit is None:
            return self._refuse(404, "RevisionNotFound" if repository else "RepoNotFound")
        data = repository.commits[commit].get(unquote(name))
        if data is None:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        if fault == "no-etag":
            return self._send(data, {"X-Repo-Commit": commit}, None)
        if len(data) < self.stand_in.large_bytes:
            headers = {"X-Repo-Commit": commit, "ETag": f'"{_git_digest(data)}"'}
            return self._send(data, headers, fault)
        sha = hashlib.sha256(data).hexdigest()
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{sha}"',
            "X-Linked-Size": str(len(data)),
            # Another name of this machine: to a client it is another host.
            "Location": f"http://localhost:{self.stand_in.port}/cdn/{sha}?{self.stand_in.sign()}",
            "Content-Length": "0",
        }
        return self._head(302, headers)

    def _send_json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"}, None)

    def _send(self, data: bytes, headers: Mapping[str, str], fault: Kind | None) -> None:
        if fault == "wrong":
            data = bytes(255 - byte for byte in data)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(wanted[1]) if wanted else 0
        if start and start >= len(data):
            size = {"Content-Range": f"bytes */{len(data)}"} if self.stand_in.tells_size else {}
            return self._refuse(416, headers=size)
        body = data[start:]
        ranged = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        length = {"Content-Length": str(len(body)), "Accept-Ranges": "bytes"}
        self._head(206 if start else 200, {**headers, **ranged, **length})
        if self.command == "GET":
            # A half of the whole: a server that stops there brings nothing new when asked again.
            cut = max(0, len(data) // 2 - start) if fault == "truncate" else len(body)
            self._write(body[:cut])
            self.close_connection = fault == "truncate"
        return None

    def _write(self, body: bytes) -> None:
        rate = self.stand_in.bytes_per_second
        piece = len(body) if rate is None else max(1, rate // 20)
        for start in range(0, len(body), piece or 1):
            self.wfile.write(body[start : start + piece])
            if rate is not None and self.stand_in.closing.wait(1 / 20):
                return

    def _refuse(
        self, status: int, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        named = {"X-Error-Code": code} if code else {}
        self._head(status, {**(headers or {}), **named, "Content-Length": "0"})

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _git_digest(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
