"""A small Hugging Face Hub: the part of its HTTP interface that `datasets` asks for, on this machine alone.

It keeps repositories in memory, and a list of what was asked for. `datasets` reads HF_ENDPOINT and HF_HOME
when it is imported, so who talks to this server is another process: see `environment`.
"""

import hashlib
import io
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

RESOLVE = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
API = re.compile(
    r"/api/datasets/(?P<repo>[^/]+/[^/]+)(/(?P<what>revision|tree|paths-info)/(?P<revision>[^/]+)(/(?P<path>.+))?)?"
)


def parquet(rows: list[dict], rows_at_once: int = 7) -> bytes:
    """Returns a parquet file of several row groups."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=rows_at_once)
    return file.getvalue()


@dataclass
class Repository:
    """The commits of a dataset: files by their paths."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    """What everybody is told: a status and the Hub's own word for it."""

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        sha = hashlib.sha1(repr((sorted(files.items()), len(self.commits))).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def sha(self, revision: str) -> str | None:
        revision = unquote(revision)
        return revision if revision in self.commits else self.branches.get(revision)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 20  # headers and content in one packet: a second one would wait for an acknowledgement

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_GET

    def log_message(self, *args):
        pass

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub, url = self.server.hub, urlsplit(self.path)
        hub.requests.append(f"{self.command} {self.path}")
        if found := RESOLVE.fullmatch(url.path):
            self._resolve(**found.groupdict())
        elif found := API.fullmatch(url.path):
            self._interface(body, parse_qs(url.query), **found.groupdict())
        else:
            self._reply(200 if url.path == "/" else 404)

    def _commit(self, name, revision):
        """Returns a commit and its files, or None after having said why not."""
        repository = self.server.hub.repositories.get(name)
        if repository is None:
            return self._reply(401, {"X-Error-Code": "RepoNotFound"})
        if repository.refusal:
            status, code = repository.refusal
            return self._reply(status, {"X-Error-Code": code})
        sha = repository.sha(revision or "main")
        if sha is None:
            return self._reply(404, {"X-Error-Code": "RevisionNotFound"})
        return sha, repository.commits[sha]

    def _resolve(self, repo, revision, path):
        if (commit := self._commit(repo, revision)) is None:
            return
        sha, files = commit
        content = files.get(unquote(path))
        headers = {"X-Repo-Commit": sha}
        if content is None:
            self._reply(404, {**headers, "X-Error-Code": "EntryNotFound"})
            return
        headers |= {"ETag": f'"{_oid(content)}"', "Accept-Ranges": "bytes"}
        status, whole = 200, len(content)
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(found[1]), min(int(found[2] or whole) + 1, whole)
            content, status = content[start:stop], 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{whole}"
        self._reply(status, headers, content)

    def _interface(self, body, query, repo, what, revision, path):
        if (commit := self._commit(repo, revision)) is None:
            return
        sha, files = commit
        if what == "tree":
            below = f"{unquote(path)}/" if path else ""
            inside = {name: content for name, content in files.items() if name.startswith(below)}
            if below and not inside:
                self._reply(404, {"X-Error-Code": "EntryNotFound"})
                return
            recursive = query.get("recursive", ["false"])[0].lower() == "true"
            self._json(_entries(inside, below, recursive))
        elif what == "paths-info":
            form = parse_qs(body.decode())
            wanted = form["paths"] if "paths" in form else json.loads(body)["paths"]
            self._json([entry for entry in _entries(files, "", True) if entry["path"] in wanted])
        else:
            siblings = [{"rfilename": name} for name in files]
            self._json(
                {"id": repo, "sha": sha, "private": False, "gated": False, "tags": [], "siblings": siblings}
            )

    def _json(self, content):
        self._reply(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _reply(self, status, headers=None, content=b""):
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entries(files, below, recursive):
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    entries = [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in folders]
    entries += [
        {"type": "file", "path": name, "oid": _oid(content), "size": len(content)}
        for name, content in files.items()
    ]
    entries = [entry for entry in entries if entry["path"].startswith(below) and entry["path"] != below]
    return [entry for entry in entries if recursive or "/" not in entry["path"].removeprefix(below)]


class HubServer:
    """Serves ``repositories`` while it is entered."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []

    def __enter__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, name: str, files: dict[str, bytes]) -> str:
        """Adds a dataset, and returns its commit."""
        return self.repositories.setdefault(name, Repository()).commit(files)

    def environment(self, home: Path) -> dict[str, str]:
        """Returns the environment of a process for which this is the Hub, and ``home`` its cache."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return {
            **inherited,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
