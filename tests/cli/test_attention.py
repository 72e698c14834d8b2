"""The attention commands: the table is the code's, pictures are drawn of what is given, bad input and missing parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import ABSENT, ROOT, run
from tests.evaluators.example_runs import made_run

CALL = """
import sys
sys.argv = ["sparse-tasks", "attention", *{arguments!r}]
from sparse_tasks.cli.main import main
main()
"""


def without_torch(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ABSENT + script], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_missing_torch_has_a_helpful_message() -> None:
    done = without_torch(CALL.format(arguments=["show", "quest"]))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "torch" in done.stderr
    assert "in a clone pip install torch, then pip install '.[attention]'; once there is a release," in done.stderr


def test_methods_are_listed_and_their_runs_analysed_without_torch(tmp_path: Path) -> None:
    for method in ("dense", "vertical_slash+quest"):
        made_run(tmp_path / method, {("ruler_vt", 1024): [1.0, 0.5]}, attention=method, sparsity=0.5)
    script = """
from sparse_tasks.evaluators.leaderboard.plausible import foreign
assert foreign("vertical_slash+quest+theirs") == ["theirs"]
try:
    import sys
    sys.argv = ["sparse-tasks", "analyze", PATH, "--only", "cost"]
    from sparse_tasks.cli.main import main
    main()
except SystemExit as leaving:
    assert not leaving.code, leaving.code
""".replace("PATH", repr(str(tmp_path)))
    done = without_torch(script + CALL.format(arguments=["list", "--verbose"]))
    assert done.returncode == 0, done.stderr
    assert "quest.token_budget*" in done.stdout


def test_the_list_is_short_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("attention", "list").out.splitlines()
    methods = run("attention", "list", "--format", "json").json()["methods"]
    assert max(map(len, lines)) <= 80
    # Two tables with a line for most.
    assert len(lines) < 3.5 * len(methods)
    for method in methods:
        assert sum(line.split(maxsplit=1)[:1] == [method["name"]] for line in lines) == 2
        # What is not usual in its table is said of it by name.
        if method["cache"] not in ("kept", "evicted after the prompt"):
            assert [line for line in lines if line.startswith(f"  {method['cache']}: ") and method["name"] in line]


class TestWithTorch:
    """Where torch is installed."""

    @pytest.fixture(autouse=True)
    def _needed(self) -> None:
        pytest.importorskip("torch")
        pytest.importorskip("matplotlib")

    def test_missing_matplotlib_has_a_helpful_message(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        finished = run("attention", "show", "quest", "-o", tmp_path / "a.png")
        assert finished.says("pip install matplotlib")
        assert finished.code == 2

    def test_json_has_every_method_with_its_parameters(self) -> None:
        from sparse_tasks.attention.method import METHODS
        from sparse_tasks.core.parameters import parameters

        listed = run("attention", "list", "--format", "json").json()["methods"]
        assert [row["name"] for row in listed] == METHODS.names()
        for row, method in zip(listed, METHODS, strict=True):
            for key in ("summary", "phase", "unit", "importance", "budget", "cache", "source", "exact"):
                assert row[key] == getattr(method, key)
            assert [p["name"] for p in row["parameters"]] == [p.name for p in parameters(method)]
            assert row["set_by_sparsity"] == list(method.budgets)

    @pytest.mark.parametrize("columns", ["80", "200"])
    def test_names_can_be_copied_whole(self, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from sparse_tasks.attention.method import METHODS
        from sparse_tasks.core.parameters import parameters

        monkeypatch.setenv("COLUMNS", columns)
        short, long = run("attention", "list"), run("attention", "list", "-v")
        for finished in (short, long):
            assert (finished.code, finished.err) == (0, "")
            assert "…" not in finished.out  # where a word is cut
            assert max(map(len, finished.out.splitlines())) <= int(columns)
            for method in METHODS:
                assert {method.name, str(method.phase)} <= set(finished.out.split())
        for method in METHODS:
            assert method.source in long.out
            for p in parameters(method):
                assert f"{method.name}.{p.name}" in long.out

    def test_picture_shows_the_method_and_has_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        options = ("--sparsity", ".8", "--set", "quest.sparsity=.5", "--format", "json")
        shown = run("attention", "show", "quest", "-l", "1000", *options).json()
        assert (shown["method"], shown["length"], shown["file"]) == ("quest", 1000, "quest.png")
        # A method's own parameter takes precedence over an option for all methods.
        assert shown["settings"]["sparsity"] == 0.5
        shown = run("attention", "show", "quest", "-l", "1k", "--set", "page=32", "--set", "quest.token_budget=64")
        # Two pages of 32, the second of which is the current one, and filled to a half on average.
        assert shown.out == "quest at 1,024 tokens: selected density 0.049, computed 0.049\nquest.png\n"
        assert [path.name for path in tmp_path.iterdir()] == ["quest.png"]

    @pytest.mark.parametrize("ending", [".npz", ".safetensors"])
    def test_given_queries_and_keys_are_shown(self, ending: str, tmp_path: Path) -> None:
        import numpy as np
        import torch

        from sparse_tasks.attention.examples import structured

        q, k, _ = structured(500, 4, 2, 32, seed=5)
        path = tmp_path / f"qk{ending}"
        if ending == ".npz":
            np.savez(path, q=q.half().numpy(), k=k.half().numpy())
        else:
            save_file = pytest.importorskip("safetensors.torch").save_file
            save_file({"q": q.to(torch.bfloat16), "k": k.to(torch.bfloat16)}, path)
        shown = run("attention", "show", "snapkv", "--qk", path, "-o", tmp_path / "a.svg")
        assert (shown.code, shown.err) == (0, "")
        assert "snapkv at 500 tokens" in shown.out
        assert "<svg" in (tmp_path / "a.svg").read_text()

    def test_twins_are_timed_on_a_cpu(self) -> None:
        options = ["--device", "cpu", "-l", "256", "--heads", 4, "--kv-heads", 2, "--head-size", 32, "--batch", 2]
        reported = run("attention", "bench", "quest", "snapkv", *options, "--format", "json").json()
        assert [timing["method"] for timing in reported["timings"]] == ["quest", "snapkv"]
        assert reported["shape"]["device"] == "cpu"
        for timing in reported["timings"]:
            assert timing["speedup"] == pytest.approx(timing["dense"] / timing["sparse"])
            assert timing["bound"] == pytest.approx(1 / timing["computed"])
            assert 0.09 < timing["computed"] < 0.2
            assert min(timing["dense"], timing["sparse"], timing["index"]) > 0
        table = run("attention", "bench", "quest", "snapkv", *options)
        assert table.err == ""
        assert "Plain torch on the CPU" in table.out
        assert "once after the prompt" in table.out
        assert table.out.count("quest") == 1

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["show", "quets"], ["attention", "'quets'", "did you mean 'quest'"]),
            (["show", "quest", "--sparsity", "1"], ["sparsity", "not including, 1"]),
            (["show", "quest", "--set", "pag=3"], ["quest.pag", "did you mean 'page'"]),
            (["show", "quest", "--set", "page"], ["set", "'page'", "KEY=VALUE, as in quest.page=32"]),
            (["show", "quest", "--set", "snapkv.window=3"], ["set", "'snapkv.window'", "quest"]),
            (["show", "quest", "--set", "token_budget=0"], ["quest.token_budget", "0 is out of range"]),
            (["show", "quest", "--set", "token_budget=9", "--sparsity", ".5"], ["token_budget", "only one of them"]),
            (["show", "quest", "-o", "a.jpg"], ["output", "'a.jpg'", ".png, .svg, .pdf"]),
            (["show", "quest", "-o", "nowhere/a.png"], ["output", "'nowhere/a.png'", "not a folder"]),
            (["show", "vertical_slash+quest"], ["method", "'vertical_slash+quest'", "each method by itself"]),
            (["show", "quest", "-l", "3"], ["length", "too short"]),
            (["show", "quest", "-l", "64", "--head", "9"], ["head", "9", "0 to 1"]),
            (["show", "quest", "--heads", "3"], ["q", "multiple of the 2 KV heads"]),
            (["show", "quest", "--head-size", "20"], ["head_size", "20", "multiple of 16"]),
            (["show", "quest", "--qk", "none.npz"], ["none.npz", "cannot be read"]),
            (["show", "quest", "--qk", "none.pt"], ["qk", "'none.pt'", ".npz"]),
            (["show", "quest", "--qk", "none.npz", "-l", "4k"], ["length", "'4k'", "--qk"]),
            (["bench", "quest", "--device", "tpu"], ["device", "'tpu'", "cuda, cpu"]),
        ],
    )
    def test_bad_input_ends_in_one_line(
        self, arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        finished = run("attention", *arguments)
        assert finished.says(*words)
        assert finished.code == 2
        assert list(tmp_path.iterdir()) == []

    def test_files_without_queries_and_keys_are_refused(self, tmp_path: Path) -> None:
        import numpy as np

        ones = np.ones((9, 2, 16))
        for arrays, words in (
            ({"q": ones}, "no array named k"),
            ({"q": ones * np.nan, "k": ones}, "not finite"),
            ({"q": ones[0], "k": ones[0]}, "tokens, heads, head_size"),
            ({"q": np.array([{}]), "k": np.array([{}])}, "no plain arrays"),
            ({"q": ones.astype(complex), "k": ones}, "complex"),
            ({"q": ones, "k": np.ones((99, 2, 16))}, "as many tokens as k, 99"),
        ):
            np.savez(tmp_path / "qk.npz", **arrays)
            finished = run("attention", "show", "quest", "--qk", tmp_path / "qk.npz", "-o", tmp_path / "a.png")
            assert finished.says(words)
            assert finished.code == 2

    def test_a_missed_sparsity_is_reported(self, tmp_path: Path) -> None:
        missed = run("attention", "show", "block_sparse", "-l", "1k", "--sparsity", "0.9", "-o", tmp_path / "a.png")
        assert "note: sparsity 0.9 means 0.100" in missed.out
        met = run("attention", "show", "block_sparse", "-l", "1k", "--set", "block=16", "-o", tmp_path / "a.png")
        assert "note" not in met.out

    @pytest.mark.parametrize(("name", "density"), [("snapkv", "0.107"), ("snapkv_blocks", "0.110")])
    def test_tokens_after_an_eviction_are_reported_as_seen(self, name: str, density: str, tmp_path: Path) -> None:
        shown = run("attention", "show", name, "--sparsity", "0.9", "-o", tmp_path / "a.png")
        # 403 of 4,032 tokens, or 26 blocks, and what was written: half of 64 steps on average.
        assert f"computed {density}" in shown.out
        assert "note: sparsity 0.9 means 0.100; that much of the prompt stays" in shown.out
        assert "each of 64 steps also sees those before it" in shown.out

    def test_a_missing_gpu_has_a_remedy(self) -> None:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        finished = run("attention", "bench", "quest")
        assert finished.says("device", "'cuda'", "cpu")
        assert finished.code == 2


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_parameters_have_one_option_and_its_old_name(command: str) -> None:
    for option in ("--set", "--attention-arg"):
        refused = run(command, "data", "--model", "demo", "--attention", "quest", option, "page=0")
        assert refused.code == 2
        assert refused.says("quest.page", "0", "out of range")
    assert "--attention-arg" not in run(command, "--help").out
