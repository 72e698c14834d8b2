"""Shells complete commands, options and values."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from sparse_tasks.cli.completion import (
    complete_locale_or_setting,
    complete_preset,
    complete_task,
    complete_tokenizer,
)
from sparse_tasks.cli.generate import _setting
from sparse_tasks.cli.main import app
from sparse_tasks.generators.presets import PRESETS
from sparse_tasks.generators.task import TASKS, parameters
from tests.example_corpora import example_corpora
from tests.generators.requests import make_request


def complete(*words: str, shell: str = "bash") -> list[str]:
    """The words that the shell is given when the last word is to be completed."""
    variables = {
        "_SPARSE_TASKS_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": " ".join(("sparse-tasks", *words)),
        "COMP_CWORD": str(len(words)),
        "_TYPER_COMPLETE_ARGS": " ".join(("sparse-tasks", *words)),
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = CliRunner().invoke(app, env=variables, prog_name="sparse-tasks")
    assert done.stderr == ""
    return done.stdout.split()


def test_shells_complete_commands_options_and_values() -> None:
    assert complete("ge") == ["generate"]
    assert complete("generate", "--len") == ["--length", "--length-includes-output"]
    assert complete("generate", "--task", "ruler_") == sorted(
        name for name in TASKS.names() if name.startswith("ruler_")
    )
    for shell in ("zsh", "fish"):
        assert "ruler_niah" in " ".join(complete("generate", "--task", "ruler_n", shell=shell))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_for_the_shell_is_printed(shell: str) -> None:
    done = CliRunner().invoke(app, env={"_SPARSE_TASKS_COMPLETE": f"source_{shell}"}, prog_name="sparse-tasks")
    assert f"_SPARSE_TASKS_COMPLETE=complete_{shell}" in done.stdout


def test_tasks_presets_and_tokenizers() -> None:
    assert complete_task("") == sorted({"all", "story", "ruler", *TASKS.names()} | {task.group() for task in TASKS})
    assert complete_task("story_m") == ["story_multihop"]
    assert complete_task("xyz") == []
    assert complete_preset("") == list(PRESETS)
    assert complete_preset("pa") == ["paper"]
    assert complete_tokenizer("q") == ["qwen2.5"]


def test_settings_with_their_choices() -> None:
    assert complete_locale_or_setting("story_multihop.h") == ["story_multihop.hops="]
    assert "story.locale=pl_PL" in complete_locale_or_setting("story.loc")
    assert complete_locale_or_setting("story.locale=pl_") == ["story.locale=pl_PL"]


def test_every_offered_setting_is_accepted() -> None:
    offered = complete_locale_or_setting("")
    assert len(offered) == len(set(offered))
    # A number of one's own choice comes behind the sign.
    for text in offered:
        path, value = _setting(text)
        owner, _, name = path.partition(".")
        owners = [task for task in TASKS if owner in (task.name, task.group())]
        if not value:
            value = next(str(p.low) for task in owners for p in parameters(task) if p.name == name)
        names = {corpus for task in owners for corpus in task.texts.values() if corpus != "essays"}
        corpora = {name: example_corpora()[name] for name in names}
        make_request(["4k"], [owner], settings={path: value}, corpora=corpora)
