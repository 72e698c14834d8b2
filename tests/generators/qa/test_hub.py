"""Corpora from a hub: a small one that runs here."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.generators.corpora import CORPORA, find_corpora
from tests import made_corpora as made

MAIN, OLD = "a" * 40, "b" * 40
SQUAD = "rajpurkar/squad_v2"
PINNED = "3ffb306f725f7d2ce8394bc1873b24868140c412"


class Hub(BaseHTTPRequestHandler):
    """Data sets by repository, revision and path; ``main`` is the commit ``aaa...``."""

    files: dict[tuple[str, str], dict[str, bytes]] = {}  # noqa: RUF012

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/"):
            repository, _, revision = path.removeprefix("/api/datasets/").partition("/revision/")
            commit = self.commit(repository, revision or "main")
            if commit is None:
                self.say(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            siblings = [{"rfilename": name} for name in self.files[repository, commit]]
            content = {"id": repository, "sha": commit, "siblings": siblings}
            self.say(200, json.dumps(content).encode(), {"Content-Type": "application/json"})
            return
        repository, _, rest = path.removeprefix("/datasets/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        commit = self.commit(repository, revision)
        found = self.files.get((repository, commit or ""), {}).get(name)
        if found is None:
            code = "RevisionNotFound" if commit is None else "EntryNotFound"
            self.say(404, b"", {"X-Error-Code": code, "X-Repo-Commit": commit or ""})
            return
        etag = hashlib.sha256(found).hexdigest()
        self.say(200, found, {"ETag": f'"{etag}"', "X-Repo-Commit": commit or ""}, body)

    def commit(self, repository: str, revision: str) -> str | None:
        commit = MAIN if revision == "main" else revision
        return commit if (repository, commit) in self.files else None

    def say(self, status: int, content: bytes, headers: dict[str, str], body: bool = True) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("hub")
    squad = made.write_rows(folder / "squad.parquet", made.squad_rows(made.squad(2, 3))).read_bytes()
    old = made.write_rows(folder / "old.parquet", made.squad_rows(made.squad(1, 3))).read_bytes()
    rows = made.write_rows(folder / "quality.parquet", made.quality_rows(made.quality(3, 8))).read_bytes()
    name = CORPORA.get("qa_squad").files[0]
    Hub.files = {
        (SQUAD, MAIN): {name: squad, "README.md": b"x"},
        (SQUAD, OLD): {name: old},
        (SQUAD, PINNED): {name: squad},
        ("org/quality", MAIN): {
            "README.md": b"x",
            ".gitattributes": b"x",
            "dataset_infos.json": b"{}",
            "data/train-00000-of-00001.parquet": b"x",
            "data/validation-00000-of-00001-0123456789abcdef.parquet": rows,
        },
        ("org/several", MAIN): {"one/x.parquet": rows, "two/x.parquet": rows},
        ("org/none", MAIN): {"README.md": b"x"},
        ("hotpotqa/hotpot_qa", MAIN): {"README.md": b"x"},
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


SCRIPT = """
import json, sys
from sparse_tasks.core.errors import SparseTasksError
from sparse_tasks.generators.corpora import find_corpora
answers = []
for text in sys.argv[1:]:
    name, _, source = text.partition("=")
    try:
        answers.append(find_corpora({name: source})[name].describe())
    except SparseTasksError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def fetched(endpoint: str, cache: Path, *sources: str, offline: bool = False) -> list[dict[str, str] | str]:
    """What each source gives, in a process of its own, which reads the endpoint as it starts."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(cache),
        "HF_HOME": str(cache),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": str(int(offline)),
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *sources], env=environment, capture_output=True, text=True, check=True
    )
    answers: list[dict[str, str] | str] = json.loads(done.stdout)
    return answers


def test_corpora_come_from_a_hub_at_a_commit(endpoint: str, tmp_path: Path) -> None:
    answers = fetched(
        endpoint,
        tmp_path,
        f"qa_squad={SQUAD}",
        f"qa_squad={SQUAD}@{OLD}",
        "qa_squad=hub",
        "qa_quality=org/quality",
        "qa_quality=org/several",
        "qa_quality=org/none",
        "qa_hotpotqa=hotpotqa/hotpot_qa",
        "qa_quality=org/nowhere",
        f"qa_squad={SQUAD}@nosuch",
    )
    main, old, pinned, quality, several, none, missing, nowhere, nosuch = answers
    assert isinstance(main, dict)
    assert (main["origin"], main["revision"], main["licence"]) == (SQUAD, MAIN, "CC BY-SA 4.0")
    assert isinstance(old, dict)
    assert old["revision"] == OLD
    assert old["sha256"] != main["sha256"]
    assert "gave other bytes of validation-00000-of-00001.parquet than those that are known" in pinned
    assert isinstance(quality, dict)
    assert (quality["origin"], quality["revision"]) == ("org/quality", MAIN)
    assert "has several: one/x.parquet, two/x.parquet; download the one that is meant" in several
    assert "has no Parquet or JSON files" in none
    assert "does not have all of distractor/validation-00000-of-00001.parquet" in missing
    for error in (nowhere, nosuch):
        assert "could not be fetched from the Hub" in error
    # What is in the cache serves without a hub.
    again, other = fetched("http://127.0.0.1:9", tmp_path, f"qa_squad={SQUAD}", "qa_hotpotqa=hub", offline=True)
    assert again == main
    assert "is not in the cache and the Hub cannot be reached" in other


def test_pinned_copies_are_pinned() -> None:
    for kind in CORPORA:
        if kind.hub is not None:
            assert len(kind.hub.partition("@")[2]) == 40
            assert len(kind.hashes) == len(kind.files) > 0
            assert all(len(found) == 64 for found in kind.hashes)


def test_a_corpus_without_a_known_copy() -> None:
    with pytest.raises(UsageError, match="has no copy on the Hub that is known here; name JSON Lines"):
        find_corpora({"qa_toefl": "hub"})
