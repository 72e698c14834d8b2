"""A small Hugging Face Hub: as much of its API as ``huggingface_hub`` and ``datasets`` use on a data set.

It keeps everything in memory, answers in the Hub's words, and can be told to go wrong.
``python -m tests.hub.server`` starts one to try things out by hand.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants

__all__ = ["READER", "WRITER", "Blob", "FakeHub", "Repo", "environment", "serving"]

WRITER = "hf_writerwriterwriterwriter"
READER = "hf_readerreaderreaderreader"
_REPO = r"/api/datasets/(?P<repo>[^/]+/[^/]+)"


@dataclass(frozen=True)
class Blob:
    """A file in a commit."""

    content: bytes
    lfs: bool

    @property
    def git_sha1(self) -> str:
        content = self.content
        if self.lfs:
            content = f"oid sha256:{self.sha256}\nsize {len(content)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_sha1


@dataclass
class Repo:
    """A repository: commits, each with all of its files, and names for some of them."""

    private: bool = False
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add("main", {".gitattributes": Blob(b"*.parquet filter=lfs\n", lfs=False)}, "initial commit")

    def add(self, ref: str, files: dict[str, Blob], message: str) -> str:
        """One more commit."""
        sha = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        self.refs[ref] = sha
        return sha

    def files(self, ref: str = "main") -> dict[str, bytes]:
        """Files of a commit without the Hub's own."""
        return {path: blob.content for path, blob in self.commits[self.refs[ref]].items() if path != ".gitattributes"}

    def put(self, path: str, content: bytes) -> None:
        """A concurrent change."""
        self.add("main", self.commits[self.refs["main"]] | {path: Blob(content, lfs=False)}, f"add {path}")


class RefusedError(Exception):
    """A request that is refused."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class FakeHub:
    """A server on this machine.

    Attributes:
        repos: By name.
        store: Large files that have arrived, by SHA-256.
        requests: Method, path without query and status of each request.
        uploads: Number of large files that are taken before the server fails; None for all.
        stuck: Whether it then hangs (instead of refusing).
        echo: Whether refusals repeat the token.
        before_commit: Called when a commit has arrived, before it is checked.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.store: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.uploads: int | None = None
        self.stuck = False
        self.echo = False
        self.before_commit: Callable[[], None] = lambda: None
        self.reached = threading.Event()
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def asked(self, method: str, part: str) -> int:
        """Number of successful requests."""
        return sum(m == method and part in path and status < 400 for m, path, status in self.requests)

    def take(self, oid: str, content: bytes) -> None:
        """A large file arrives."""
        with self._lock:
            full = self.uploads is not None and len(self.store) >= self.uploads
            if not full:
                if hashlib.sha256(content).hexdigest() != oid:
                    raise RefusedError(400, "The content does not have this SHA-256")
                self.store[oid] = content
        if full:
            self.reached.set()
            if self.stuck:
                self._released.wait(60)
            raise RefusedError(400, "The upload was cut off")


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def answer(self) -> None:
        method, url = self.command, urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        try:
            for verb, pattern, does in _ROUTES:
                if verb == method and (match := re.fullmatch(pattern, url.path)):
                    parts = {name: unquote(text or "") for name, text in match.groupdict().items()}
                    if self.token not in (None, WRITER, READER) and not parts.get("oid"):
                        raise RefusedError(401, "Invalid credentials in Authorization header")
                    status, headers, content = does(self, **parts)
                    break
            else:
                raise RefusedError(404, "Sorry, we can't find the page you are looking for.")
        except RefusedError as refused:
            message = refused.message + (f" (token: {self.token})" if self.hub.echo else "")
            headers = {"X-Error-Message": refused.message, "X-Error-Code": refused.code} if refused.code else {
                "X-Error-Message": message}  # fmt: skip
            status, content = refused.status, json.dumps({"error": message}).encode()
        self.hub.requests.append((method, unquote(url.path), status))
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if method != "HEAD":
                self.wfile.write(content)
        except OSError:  # the client disconnected
            self.close_connection = True

    # --- repositories ---

    def _repo(self, name: str, write: bool = False) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.token is None):
            if self.token is None:
                raise RefusedError(401, "Invalid username or password.")
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        if write and self.token is None:
            raise RefusedError(401, "Invalid username or password.")
        if write and self.token != WRITER:
            raise RefusedError(403, "You don't have the rights to do that")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> str:
        sha = repo.refs.get(revision, revision)
        if sha not in repo.commits:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def create(self) -> tuple[int, dict[str, str], bytes]:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if self.token is None:
            raise RefusedError(401, "Invalid username or password.")
        if self.token != WRITER:
            raise RefusedError(403, f"You don't have the rights to create a dataset under the namespace {name}")
        url = {"url": f"{self.hub.url}/datasets/{name}", "id": name}
        if name in self.hub.repos:
            return _json(url | {"error": "You already created this dataset repo"}, 409)
        private = asked.get("private", False) or asked.get("visibility") == "private"
        self.hub.repos[name] = Repo(private=private)
        return _json(url)

    def info(self, repo: str, revision: str = "main") -> tuple[int, dict[str, str], bytes]:
        found = self._repo(repo)
        sha = self._commit_of(found, revision or "main")
        siblings = [{"rfilename": path} for path in found.commits[sha]]
        return _json({"id": repo, "sha": sha, "private": found.private, "gated": False, "disabled": False,
                      "downloads": 0, "likes": 0, "tags": [], "siblings": siblings})  # fmt: skip

    def tree(self, repo: str, revision: str, path: str = "") -> tuple[int, dict[str, str], bytes]:
        found = self._repo(repo)
        files = found.commits[self._commit_of(found, revision)]
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        prefix = f"{path}/" if path else ""
        entries: dict[str, dict[str, Any]] = {}
        for name, blob in files.items():
            if not name.startswith(prefix):
                continue
            parts = name.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)):
                if depth == 1 or recursive:
                    folder = prefix + "/".join(parts[:depth])
                    entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
            if len(parts) == 1 or recursive:
                entries[name] = _entry(name, blob)
        if path and not entries:
            raise RefusedError(404, f"{path} does not exist", "EntryNotFound")
        return _json(list(entries.values()))

    def paths_info(self, repo: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        found = self._repo(repo)
        files = found.commits[self._commit_of(found, revision)]
        if "json" in self.headers.get("Content-Type", ""):
            asked = json.loads(self.body)["paths"]
        else:
            asked = parse_qs(self.body.decode()).get("paths", [])
        folders = {path for path in asked if any(name.startswith(f"{path}/") for name in files)}
        return _json([
            *(_entry(path, files[path]) for path in asked if path in files),
            *({"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders),
        ])  # fmt: skip

    def refs(self, repo: str) -> tuple[int, dict[str, str], bytes]:
        found = self._repo(repo)
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
            for name, sha in found.refs.items()
            if not name.startswith("refs/")
        ]
        return _json({"branches": branches, "converts": [], "tags": []})

    def branch(self, repo: str, name: str) -> tuple[int, dict[str, str], bytes]:
        found = self._repo(repo, write=True)
        if name in found.refs:
            raise RefusedError(409, "Reference already exists")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        found.refs[name] = self._commit_of(found, start)
        return _json({})

    # --- writing ---

    def validate_yaml(self) -> tuple[int, dict[str, str], bytes]:
        head = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        errors = [] if head and isinstance(yaml.safe_load(head[1]), dict) else [{"message": "metadata is missing"}]
        return _json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, repo: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        found = self._repo(repo, write="create_pr" not in self.query)
        files = found.commits[self._commit_of(found, revision)]
        ignored = files[".gitignore"].content.decode().split() if ".gitignore" in files else []
        answers = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            answers.append({
                "path": path,
                "uploadMode": "lfs" if path.endswith(".parquet") or asked["size"] > 10_000_000 else "regular",
                "shouldIgnore": any(fnmatch(path, pattern) for pattern in ignored),
                "oid": files[path].etag if path in files else None,
            })  # fmt: skip
        return _json({"files": answers})

    def batch(self, repo: str) -> tuple[int, dict[str, str], bytes]:
        self._repo(repo)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            known = asked["oid"] in self.hub.store
            actions = {"actions": {"upload": {"href": f"{self.hub.url}/_store/{repo}/{asked['oid']}"}}}
            objects.append({"oid": asked["oid"], "size": asked["size"]} | ({} if known else actions))
        return _json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str, repo: str) -> tuple[int, dict[str, str], bytes]:
        self.hub.take(oid, self.body)
        return _json({})

    def commit(self, repo: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        proposed = "create_pr" in self.query
        found = self._repo(repo, write=not proposed)
        self.hub.before_commit()
        head = self._commit_of(found, revision)
        header, *operations = map(json.loads, self.body.splitlines())
        parent = header["value"].get("parentCommit")
        if parent not in (None, head):
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(found.commits[head])
        for operation in operations:
            key, value = operation["key"], operation["value"]
            if key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.store:
                    raise RefusedError(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
                files[value["path"]] = Blob(self.hub.store[value["oid"]], lfs=True)
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise RefusedError(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise RefusedError(400, f"unknown operation {key}")
        number = 1 + sum(name.startswith("refs/pr/") for name in found.refs)
        sha = found.add(f"refs/pr/{number}" if proposed else revision, files, header["value"]["summary"])
        url = f"{self.hub.url}/datasets/{repo}"
        pull = {"pullRequestUrl": f"{url}/discussions/{number}"} if proposed else {}
        return _json({"success": True, "commitOid": sha, "commitUrl": f"{url}/commit/{sha}"} | pull)

    # --- reading ---

    def resolve(self, repo: str, revision: str, path: str) -> tuple[int, dict[str, str], bytes]:
        found = self._repo(repo)
        sha = self._commit_of(found, revision)
        blob = found.commits[sha].get(path)
        if blob is None:
            raise RefusedError(404, f'{path} does not exist on "{revision}"', "EntryNotFound")
        headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return 200, headers, blob.content
        first, last = int(asked[1]), min(int(asked[2] or len(blob.content)), len(blob.content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(blob.content)}"
        return 206, headers, blob.content[first : last + 1]


for _method in ("do_GET", "do_HEAD", "do_POST", "do_PUT"):
    setattr(_Handler, _method, _Handler.answer)


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.git_sha1}
    return entry | ({"lfs": {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}} if blob.lfs else {})


def _json(value: object, status: int = 200) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


_ROUTES: list[tuple[str, str, Callable[..., tuple[int, dict[str, str], bytes]]]] = [
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("GET", _REPO, _Handler.info),
    ("GET", _REPO + r"/revision/(?P<revision>[^/]+)", _Handler.info),
    ("GET", _REPO + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", _Handler.tree),
    ("POST", _REPO + r"/paths-info/(?P<revision>[^/]+)", _Handler.paths_info),
    ("GET", _REPO + r"/refs", _Handler.refs),
    ("POST", _REPO + r"/branch/(?P<name>[^/]+)", _Handler.branch),
    ("POST", _REPO + r"/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", _REPO + r"/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("POST", r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/_store/(?P<repo>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})", _Handler.upload),
    *((verb, r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve)
      for verb in ("HEAD", "GET")),
]  # fmt: skip


def environment(hub: FakeHub, home: Path, token: str | None = WRITER) -> dict[str, str]:
    """Variables by which a process uses the server instead of the Hub."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": token or "",
    }


@contextmanager
def serving(home: Path, patch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A server that ``huggingface_hub`` in this process takes for the Hub, with a token that may write.

    ``patch`` is the test's own: two of them would undo what they set in the wrong order.
    """
    with FakeHub() as hub:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
        patch.setenv("HF_TOKEN", WRITER)
        yield hub


if __name__ == "__main__":
    with FakeHub() as running:
        sys.stdout.write(f"export HF_ENDPOINT={running.url} HF_HUB_DISABLE_XET=1 HF_HUB_OFFLINE=0 HF_TOKEN={WRITER}\n")
        sys.stdout.flush()
        threading.Event().wait()
