"""Corpora from a Hub: a small one that runs here."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.generators.corpora import CORPORA, find_corpora
from tests import example_corpora as made
from tests.cli.program import ROOT
from tests.hub.server import Blob, FakeHub, Repo, environment

MAIN, OLD = "a" * 40, "b" * 40
SQUAD, PINNED = str(CORPORA.get("qa_squad").hub).split("@")
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


def repo(**commits: dict[str, bytes]) -> Repo:
    """A repository whose commits have names of one's own; ``main`` is the first."""
    made = Repo()
    made.commits = {sha: {path: Blob(content, lfs=False) for path, content in files.items()}
                    for sha, files in commits.items()}  # fmt: skip
    made.refs = {"main": next(iter(commits))}
    return made


def fetched(hub: FakeHub, cache: Path, *sources: str, offline: bool = False) -> list[dict[str, str] | str]:
    """Result for each source, in a process that reads the address of the Hub as it starts."""
    offline_or_not = {"HF_HUB_OFFLINE": str(int(offline)), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, *sources]
    env = os.environ | environment(hub, cache, token=None) | offline_or_not
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    answers: list[dict[str, str] | str] = json.loads(done.stdout)
    return answers


def test_corpora_come_from_a_hub_at_a_commit(tmp_path: Path) -> None:
    squad = made.write_rows(tmp_path / "squad.parquet", made.squad_rows(made.squad(2, 3))).read_bytes()
    old = made.write_rows(tmp_path / "old.parquet", made.squad_rows(made.squad(1, 3))).read_bytes()
    rows = made.write_rows(tmp_path / "quality.parquet", made.quality_rows(made.quality(3, 8))).read_bytes()
    packed = gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in made.quality(3, 8)))
    name = CORPORA.get("qa_squad").files[0]
    with FakeHub() as hub:
        hub.repos = {
            SQUAD: repo(**{MAIN: {name: squad, "README.md": b"x"}, OLD: {name: old}, PINNED: {name: squad}}),
            "org/quality": repo(
                **{
                    MAIN: {
                        "README.md": b"x",
                        "dataset_infos.json": b"{}",
                        "data/train-00000-of-00001.parquet": b"x",
                        "data/validation-00000-of-00001-0123456789abcdef.parquet": rows,
                    }
                }
            ),
            "org/packed": repo(**{MAIN: {"README.md": b"x", "dev.jsonl.gz": packed}}),
            "org/several": repo(**{MAIN: {"one/x.parquet": rows, "two/x.parquet": rows}}),
            "org/none": repo(**{MAIN: {"README.md": b"x"}}),
            "hotpotqa/hotpot_qa": repo(**{MAIN: {"README.md": b"x"}}),
        }
        main, earlier, pinned, quality, lines, several, none, missing, nowhere, nosuch = fetched(
            hub,
            tmp_path,
            f"qa_squad={SQUAD}",
            f"qa_squad={SQUAD}@{OLD}",
            "qa_squad=hub",
            "qa_quality=org/quality",
            "qa_quality=org/packed",
            "qa_quality=org/several",
            "qa_quality=org/none",
            "qa_hotpotqa=hotpotqa/hotpot_qa",
            "qa_quality=org/nowhere",
            f"qa_squad={SQUAD}@nosuch",
        )
    assert isinstance(main, dict)
    assert (main["origin"], main["revision"], main["licence"]) == (SQUAD, MAIN, "CC BY-SA 4.0")
    assert isinstance(earlier, dict)
    assert earlier["revision"] == OLD
    assert earlier["sha256"] != main["sha256"]
    assert "gave other bytes of validation-00000-of-00001.parquet than those that are known" in pinned
    assert isinstance(quality, dict)
    assert (quality["origin"], quality["revision"]) == ("org/quality", MAIN)
    assert isinstance(lines, dict)
    assert lines["origin"] == "org/packed"
    assert "has several: one/x.parquet, two/x.parquet; download the one that is meant" in several
    assert "has no Parquet or JSON files" in none
    assert "does not have all of distractor/validation-00000-of-00001.parquet" in missing
    for error in (nowhere, nosuch):
        assert "could not be fetched from the Hub" in error
    # The cache serves without a Hub.
    again, other = fetched(hub, tmp_path, f"qa_squad={SQUAD}", "qa_hotpotqa=hub", offline=True)
    assert again == main
    assert "is not in the cache and the Hub cannot be reached" in other


def test_pinned_copies_are_pinned() -> None:
    for kind in CORPORA:
        if kind.hub is not None:
            assert len(kind.hub.partition("@")[2]) == 40
            assert len(kind.hashes) == len(kind.files) > 0
            assert all(len(digest) == 64 for digest in kind.hashes)


def test_a_corpus_without_a_known_copy() -> None:
    with pytest.raises(UsageError, match="has no copy on the Hub that is known here; take toeflqa"):
        find_corpora({"qa_toefl": "hub"})
