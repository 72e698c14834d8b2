"""The maintainer's workflow accepts only new submissions, and gives pull requests no rights."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load((ROOT / "docs" / "leaderboard-action.yml").read_text(encoding="utf-8"))
    return loaded


def script(workflow: dict[Any, Any], job: str, name: str) -> str:
    return next(str(step["run"]) for step in workflow["jobs"][job]["steps"] if step.get("name") == name)


def test_the_workflow_gives_no_rights_to_pull_requests(workflow: dict[Any, Any]) -> None:
    assert set(workflow[True]) == {"pull_request", "push"}  # YAML 1.1 reads the key "on" so
    assert workflow["permissions"] == {}
    jobs = workflow["jobs"]
    assert jobs["check"]["permissions"] == {"contents": "read"}
    assert [name for name, job in jobs.items() if job["if"] == "github.event_name == 'pull_request'"] == ["check"]
    assert all(job["if"] == "github.event_name == 'push'" for name, job in jobs.items() if name != "check")
    assert "secrets" not in str(workflow)
    assert workflow["defaults"] == {"run": {"shell": "bash"}}  # without it, a check that fails in a pipe would pass


def test_no_text_of_a_pull_request_is_put_into_a_script(workflow: dict[Any, Any]) -> None:
    scripts = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert len(scripts) >= 4
    assert not [one for one in scripts if "${{" in one]


def test_the_workflow_uses_only_official_actions(workflow: dict[Any, Any]) -> None:
    used = [step for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in used)
    assert all(step["with"]["persist-credentials"] is False for step in used if "checkout" in step["uses"])


class Forge:
    """A board's repository and a pull request to it, checked out as the workflow does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.theirs = folder / "theirs"
        (self.theirs / "submissions").mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        (self.theirs / "submissions" / "old.json").write_text("{}")
        self.base = self.commit()

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(self.theirs), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x")
        return self.git("rev-parse", "HEAD")

    def changed(self, script: str) -> tuple[int, str, str]:
        """Exit code, output and the list of files of the workflow's first step."""
        environment = {"PATH": os.environ["PATH"], "BASE": self.base, "HEAD": self.commit(), "HOME": str(self.folder)}
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        listed = self.folder / "changed.txt"
        return done.returncode, done.stdout + done.stderr, listed.read_text() if listed.exists() else ""


def test_the_workflow_accepts_new_submissions(workflow: dict[Any, Any], tmp_path: Path) -> None:
    forge = Forge(tmp_path)
    (forge.theirs / "submissions" / "new-1.json").write_text("{}")
    (forge.theirs / "submissions" / "new-2.json").write_text("{ }")
    code, output, listed = forge.changed(script(workflow, "check", "Only new submissions"))
    assert (code, listed) == (0, "submissions/new-1.json\nsubmissions/new-2.json\n"), output


def test_the_workflow_ignores_later_changes_on_the_base_branch(workflow: dict[Any, Any], tmp_path: Path) -> None:
    forge = Forge(tmp_path)
    (forge.theirs / "submissions" / "other.json").write_text("{}")
    newer = forge.commit()
    forge.git("checkout", "-q", "-b", "theirs", forge.base)
    forge.base = newer
    (forge.theirs / "submissions" / "new.json").write_text("{}")
    code, output, listed = forge.changed(script(workflow, "check", "Only new submissions"))
    assert (code, listed) == (0, "submissions/new.json\n"), output


@pytest.mark.parametrize("datasets", [(), ("long texts.json", "needles.json")], ids=["any", "two"])
@pytest.mark.parametrize(("refused", "code"), [("nothing", 0), ("b.json", 1)])
def test_the_workflow_fails_if_a_check_fails(
    refused: str, code: int, datasets: tuple[str, ...], workflow: dict[Any, Any], tmp_path: Path
) -> None:
    (tmp_path / "board" / "datasets").mkdir(parents=True)
    for name in datasets:
        (tmp_path / "board" / "datasets" / name).write_text("{}")
    (tmp_path / "changed.txt").write_text("submissions/a.json\nsubmissions/b.json\nsubmissions/c.json\n")
    program = tmp_path / "bin" / "sparse-tasks"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "::$*"\ncase "$*" in *{refused}*) exit 1;; esac\n')
    program.chmod(0o755)
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, script(workflow, "check", "Check each submission")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    lines = [line for line in done.stdout.splitlines() if "::" in line]
    data = "".join(f" --data board/datasets/{name}" for name in datasets)
    assert lines == [f"| ::leaderboard check theirs/submissions/{name}.json{data}" for name in "abc"]


@pytest.mark.parametrize(
    "change",
    [
        *("echo '{ }' > submissions/old.json", "rm submissions/old.json", "mv submissions/old.json submissions/x.json"),
        *("ln -s /etc/passwd submissions/x.json", "touch submissions/x.json; chmod +x submissions/x.json"),
        *("mkdir datasets; echo x > datasets/x.json", "touch submissions/x.py"),
        "mkdir submissions/x; touch submissions/x/x.json",
        *("touch submissions/Ä.json", "touch submissions/-x.json", "touch $'submissions/new\\nline.json'"),
    ],
)
def test_the_workflow_refuses_other_changes(change: str, workflow: dict[Any, Any], tmp_path: Path) -> None:
    forge = Forge(tmp_path)
    (forge.theirs / "submissions" / "new.json").write_text("{}")
    subprocess.run(["bash", "-ec", change], cwd=forge.theirs, check=True)
    code, output, _ = forge.changed(script(workflow, "check", "Only new submissions"))
    assert code == 1
    assert "may add files submissions/NAME.json and change nothing else" in output
