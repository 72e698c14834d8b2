"""Tokenizers by name, folder, file and Hub id; the cache of the built-in one; where the chat template comes from."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from tokenizers import Tokenizer

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer, loading, qwen25
from tests.example_tokenizers import MAKERS, byte_level, llama, save

TEXT = "Clara paid 46 crowns.\n\n“Chloé?” 漢字 😀\n"

# --- the cache of the built-in tokenizer --------------------------------------------------------------------


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each conversion that took place. The real one takes seconds; a small tokenizer replaces it."""
    done: list[int] = []

    def build() -> Tokenizer:
        done.append(1)
        return byte_level()

    monkeypatch.setattr(qwen25, "build", build)
    return done


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a" / "cache"
    monkeypatch.setenv("SPARSE_TASKS_CACHE", str(folder))
    return folder


def is_whole(tokenizer: PromptTokenizer) -> bool:
    same = json.loads(tokenizer.backend.to_str()) == json.loads(byte_level().to_str())
    return same and tokenizer.sha256 == qwen25.source_sha256()


def test_the_conversion_is_kept_and_read_by_later_runs(cache: Path, conversions: list[int]) -> None:
    assert is_whole(load_tokenizer())
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".sha256"]
    assert is_whole(load_tokenizer())
    assert conversions == [1]


def test_concurrent_threads_convert_once(cache: Path, conversions: list[int]) -> None:
    with ThreadPoolExecutor(4) as threads:
        texts = set(threads.map(lambda _: load_tokenizer().serialised, range(4)))
    assert len(texts) == 1
    assert conversions == [1]


@pytest.mark.parametrize("splits", [True, False])
def test_a_faster_encoder_gets_settings_missing_from_tokenizer_json(splits: bool, tmp_path: Path) -> None:
    folder = save(byte_level(), tmp_path / "made", None)
    (folder / "tokenizer_config.json").write_text(json.dumps({"split_special_tokens": splits}), encoding="utf-8")
    loaded = load_tokenizer(str(folder))
    assert loaded.splits_special is splits
    assert json.loads(loaded.serialised) == json.loads(loaded.backend.to_str())


@pytest.mark.parametrize("damage", ["cut", "changed", "hash lost", "a folder"])
def test_a_damaged_cache_is_rebuilt(damage: str, cache: Path, conversions: list[int]) -> None:
    assert load_tokenizer().backend is not None
    kept = next(cache.glob("*.json"))
    content = kept.read_bytes()
    if damage == "cut":
        kept.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        # Still a tokenizer, but another one.
        kept.write_bytes(content.replace(b'"add_prefix_space":false', b'"add_prefix_space":true', 1))
        assert kept.read_bytes() != content
    elif damage == "hash lost":
        kept.with_suffix(".sha256").unlink()
    else:
        kept.unlink()
        kept.mkdir()
    assert is_whole(load_tokenizer())
    assert conversions == [1, 1]
    if damage != "a folder":
        assert is_whole(load_tokenizer())
        assert conversions == [1, 1], "the cache was not mended"


def test_a_read_only_cache_is_not_used(tmp_path: Path, conversions: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    # A file where the folder should be stops root, too, whom permissions do not.
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "cache"):
        monkeypatch.setenv("SPARSE_TASKS_CACHE", str(place))
        assert is_whole(load_tokenizer())
    assert conversions == [1, 1]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"SPARSE_TASKS_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"SPARSE_TASKS_CACHE": "", "XDG_CACHE_HOME": "/x"}, "/x/sparse-tasks"),
        ({"HOME": "/h"}, "/h/.cache/sparse-tasks"),
    ],
)
def test_where_the_cache_is(variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPARSE_TASKS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert loading.cache_folder() == Path(folder)


# --- folders and files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sort", MAKERS)
def test_a_folder_gives_its_tokenizer_and_template(sort: str, tokenizer_folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folders[sort]))
    assert tokenizer.name == sort
    assert tokenizer.render(" Hi ").endswith("[user] Hi[end][assistant]")
    assert tokenizer.ids("Hi") == MAKERS[sort]().encode(tokenizer.render("Hi"), add_special_tokens=False).ids


def test_a_file_gives_its_tokenizer_and_no_template(tokenizer_folders: dict[str, Path]) -> None:
    path = tokenizer_folders["llama"] / "tokenizer.json"
    tokenizer = load_tokenizer(str(path))
    assert (tokenizer.name, tokenizer.template) == ("tokenizer.json", None)
    assert tokenizer.ids("Hi") == llama().encode("Hi").ids
    # The words of a sample depend on this hash, so it must not depend on where the file lies.
    assert tokenizer.sha256 == load_tokenizer(str(tokenizer_folders["llama"])).sha256


def test_a_folder_without_a_tokenizer_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tokenizer: .* holds no tokenizer\.json; save it with .*save_pretrained"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b'{"model": {"type": "Magic"}}', b"\xff\xfe\x00"])
def test_garbage_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    for source in (path, tmp_path):
        with pytest.raises(UsageError, match=r"is not a tokenizer\.json that tokenizers can read: ") as caught:
            load_tokenizer(str(source))
        assert (caught.value.field, caught.value.value) == ("tokenizer", str(source))


@pytest.mark.parametrize(
    ("name", "suggested"), [("qwen25", True), ("Qwen2.5", True), ("gpt2", False), ("./nowhere/here", False)]
)
def test_an_unknown_name_says_what_would_work(name: str, suggested: bool) -> None:
    with pytest.raises(UsageError, match=r"or name a folder, a tokenizer\.json or a Hub id") as caught:
        load_tokenizer(name)
    assert ("did you mean 'qwen2.5'?" in str(caught.value)) == suggested


@pytest.mark.parametrize("source", ["~nobody-here/tokenizer", "a" * 5_000, "a\0b"])
def test_an_impossible_path_is_bad_input(source: str) -> None:
    with pytest.raises(UsageError, match=r"^tokenizer: "):
        load_tokenizer(source)


def test_random_merges_are_refused(tmp_path: Path) -> None:
    state = json.loads(byte_level().to_str())
    state["model"]["dropout"] = 0.1
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(UsageError, match="drops merges at random"):
        load_tokenizer(str(tmp_path))
    state["model"]["dropout"] = 0.0
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    assert load_tokenizer(str(tmp_path)).ids(TEXT) == byte_level().encode(TEXT).ids


def test_truncation_and_padding_left_in_a_file_are_switched_off(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(byte_level().to_str())
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=64)
    loaded = load_tokenizer(str(save(tokenizer, tmp_path, template=None)))
    ids = byte_level().encode(TEXT).ids
    assert 5 < len(ids) < 64
    assert loaded.ids(TEXT) == ids
    assert loaded.count(TEXT) == len(ids)


# --- the chat template --------------------------------------------------------------------------------------


def configured(folder: Path, **config: object) -> Path:
    save(byte_level(), folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_none_leaves_the_prompt_bare(tokenizer_folders: dict[str, Path]) -> None:
    for source in ("qwen2.5", str(tokenizer_folders["llama"])):
        tokenizer = load_tokenizer(source, "none")
        assert tokenizer.template is None
        assert tokenizer.render(TEXT) == TEXT


def test_a_file_replaces_the_tokenizers_own_template(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> None:
    (tmp_path / "chat.jinja").write_text("{{ bos_token }}«{{ messages[0].content }}»", encoding="utf-8")
    choice = str(tmp_path / "chat.jinja")
    assert load_tokenizer(str(tokenizer_folders["llama"]), choice).render("Hi") == "<s>«Hi»"
    assert load_tokenizer("qwen2.5", choice).render("Hi") == "«Hi»"


def test_the_default_of_several_templates_is_used(tmp_path: Path) -> None:
    templates = [
        {"name": "tool_use", "template": "tools {{ messages[0].content }}"},
        {"name": "default", "template": "default {{ messages[0].content }}"},
    ]
    assert load_tokenizer(str(configured(tmp_path, chat_template=templates))).render("Hi") == "default Hi"


def test_templates_and_configurations_that_cannot_be_read_are_bad_input(tmp_path: Path) -> None:
    folder = str(configured(tmp_path))
    (tmp_path / "chat.jinja").write_bytes(b"\xff\xfe")
    for choice in ("chat.jinja", "none.jinja"):
        with pytest.raises(UsageError, match=r"chat-template: .* is neither auto nor none nor a readable file"):
            load_tokenizer(folder, str(tmp_path / choice))
    (tmp_path / "chat.jinja").write_text("{% for")
    with pytest.raises(UsageError, match=r"chat-template: '\{% for' does not parse"):
        load_tokenizer(folder, str(tmp_path / "chat.jinja"))
    (tmp_path / "chat.jinja").rename(tmp_path / "chat_template.jinja")
    with pytest.raises(UsageError, match=r"chat-template: '\{% for' does not parse"):
        load_tokenizer(folder)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"has an unreadable chat_template\.jinja"):
        load_tokenizer(folder)
    for content in (b"{", b"[1]", b"\xff"):
        (tmp_path / "tokenizer_config.json").write_bytes(content)
        with pytest.raises(UsageError, match=r"has an unreadable tokenizer_config\.json"):
            load_tokenizer(folder)


@pytest.mark.parametrize("templates", [[{"name": "tool_use", "template": "x"}], 7])
def test_templates_without_a_default_are_not_silently_left_out(templates: object, tmp_path: Path) -> None:
    folder = str(configured(tmp_path, chat_template=templates))
    with pytest.raises(UsageError, match="finds several templates and no default; name a file, or none"):
        load_tokenizer(folder)
    assert load_tokenizer(folder, "none").template is None


def test_a_template_file_takes_precedence(tmp_path: Path) -> None:
    # As in transformers, which since 4.50 saves the template by itself.
    configured(tmp_path, chat_template="old", eos_token="</s>")
    (tmp_path / "chat_template.jinja").write_text("new {{ messages[0].content }}{{ eos_token }}")
    assert load_tokenizer(str(tmp_path)).render("Hi") == "new Hi</s>"


def test_special_tokens_may_be_texts_or_objects_or_missing(tmp_path: Path) -> None:
    folder = configured(
        tmp_path,
        chat_template="{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|{{ messages[0].content }}",
        bos_token={"content": "<s>", "lstrip": False},
        eos_token="</s>",
        pad_token=None,
    )
    assert load_tokenizer(str(folder)).render("Hi") == "<s>|</s>|||Hi"


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_the_first_token_is_printed_once(choice: str, tokenizer_folders: dict[str, Path]) -> None:
    # The template prints it itself; the tokenizer would put a second one in front.
    tokenizer = load_tokenizer(str(tokenizer_folders["llama"]), choice)
    ids, bos = tokenizer.ids(TEXT), tokenizer.backend.token_to_id("<s>")
    assert ids.count(bos) == 1
    assert ids[0] == bos
    assert tokenizer.count(TEXT) == len(ids)


# --- the Hub, never really asked ----------------------------------------------------------------------------


class FakeHub:
    """``hf_hub_download`` over a folder; remembers what was asked for."""

    def __init__(self, folder: Path, missing: Exception) -> None:
        self.folder, self.missing = folder, missing
        self.asked: list[tuple[str, str, str | None]] = []

    def __call__(self, repository: str, name: str, revision: str | None = None) -> str:
        self.asked.append((repository, name, revision))
        if not (self.folder / name).is_file():
            raise self.missing
        return str(self.folder / name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "repository", EntryNotFoundError("404"))
    save(byte_level(), fake.folder)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake)
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.mark.parametrize(
    ("source", "repository", "revision"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct", None),
        ("org/name@refs/pr/3", "org/name", "refs/pr/3"),
    ],
)
def test_a_hub_id_is_fetched_file_by_file(source: str, repository: str, revision: str | None, hub: FakeHub) -> None:
    tokenizer = load_tokenizer(source)
    assert tokenizer.name == source
    assert tokenizer.render("Hi").endswith("[user] Hi[end][assistant]")
    assert tokenizer.sha256 == load_tokenizer(str(hub.folder)).sha256
    files = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
             "chat_template.jinja")  # fmt: skip
    assert hub.asked == [(repository, file, revision) for file in files]


def test_a_local_folder_precedes_the_hub(hub: FakeHub) -> None:
    save(llama(), Path("org/name"))
    assert load_tokenizer("org/name").ids("Hi") == load_tokenizer(str(Path("org/name").resolve())).ids("Hi")
    assert hub.asked == []


def test_a_lost_connection_is_not_a_missing_template(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.missing = LocalEntryNotFoundError("connection lost")
    with pytest.raises(UsageError, match="the Hub cannot be reached"):
        load_tokenizer("org/name")


# --- the Hub's cache, offline -------------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of org/name in an otherwise empty cache of the Hub, as a download leaves it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository, commit = tmp_path / "hub" / "models--org--name", "0123456789" * 4
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    return repository / "snapshots" / commit


def test_offline_missing_files_are_named(offline: Path) -> None:
    for source in ("org/name", "org/other", "org/name@v1"):
        with pytest.raises(UsageError, match=f"{source!r} is not in the cache and the Hub cannot be reached"):
            load_tokenizer(source)


def test_offline_the_cache_is_used(offline: Path) -> None:
    # Nothing tells that the repository has no chat_template.jinja: it must not be missed.
    save(byte_level(), offline)
    tokenizer = load_tokenizer("org/name")
    assert tokenizer.render("Hi") == load_tokenizer(str(offline)).render("Hi")
    assert tokenizer.name == "org/name"
