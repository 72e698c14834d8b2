"""Rendered texts and ids are those of ``transformers``: over real templates, wherever special tokens are defined."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from tests.core.tokenizers.families import FAMILIES, VISION
from tests.example_tokenizers import byte_level

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers about itself


class FirstDay(datetime):
    """The day on which our templates are rendered."""

    @classmethod
    def now(cls, tz: object = None) -> FirstDay:
        return cls(2025, 1, 1)


@pytest.fixture(autouse=True, scope="module")
def one_day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("families")))
        patch.setattr("transformers.utils.chat_template_utils.datetime", FirstDay)
        yield


def folder_of(config: dict[str, Any], marks: tuple[str, ...] = (), **files: dict[str, Any]) -> Path:
    """A tokenizer's folder: ``marks`` are in ``tokenizer.json``, the rest in the configuration and further files."""
    folder = Path(mkdtemp())
    backend = Tokenizer.from_str(byte_level().to_str())
    backend.normalizer = normalizers.Replace("THE", "the")  # which tokens may be found after
    backend.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    backend.save(str(folder / "tokenizer.json"))
    files["tokenizer_config"] = {"tokenizer_class": "PreTrainedTokenizerFast"} | config
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def both(folder: Path) -> tuple[PromptTokenizer, Any]:
    # transformers takes control tokens that a prompt spells for these tokens.
    return load_tokenizer(str(folder), keeps_control=True), transformers.AutoTokenizer.from_pretrained(folder)


@cache
def family(name: str) -> tuple[PromptTokenizer, Any]:
    made = FAMILIES[name]
    return both(folder_of({**made.config, "chat_template": made.template}, made.marks))


def same(ours: PromptTokenizer, theirs: Any, prompt: str, in_parts: bool = False) -> None:
    content = [{"type": "text", "text": prompt}] if in_parts else prompt
    messages = [{"role": "user", "content": content}]
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours.render(prompt) == text
    assert ours.ids(prompt) == ids
    assert ours.count(prompt) == len(ids)


_MARKS = sorted({mark for made in FAMILIES.values() for mark in made.marks})
_PROMPTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["\n\n", " ", "Chapter 1\n", "{{ x }}", "{% raw %}", "</think>", "<think>", "<s>", *_MARKS]),
    min_size=1,
    max_size=6,
).map("".join)


@pytest.mark.parametrize("name", FAMILIES)
@given(prompt=_PROMPTS)
@settings(max_examples=40, deadline=None)
def test_real_templates_match_transformers(name: str, prompt: str) -> None:
    ours, theirs = family(name)
    same(ours, theirs, prompt, in_parts=FAMILIES[name].template == VISION)


def test_the_templates_match_their_names() -> None:
    rendered = {name: family(name)[0].render("Who?") for name in FAMILIES}
    assert "Today Date: 01 Jan 2025" in rendered["Llama 3.1"]
    assert "Today Date: 01 January 2025" in rendered["SmolLM 3, with a date"]
    assert rendered["Mistral"] == "<s>[INST] Who?[/INST]"
    assert rendered["an encoder's"] == "[CLS]Who?[SEP][MASK]"
    assert rendered["SmolVLM, of parts"] == "<|im_start|>User: Who?<end_of_utterance>\nAssistant:"
    assert rendered["gpt-oss"].endswith("<|start|>user<|message|>Who?<|end|><|start|>assistant")


# --- where tokens are defined -------------------------------------------------------------------------------

_NAMES = ["bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token", "image_token"]
_TEXTS = ["<s>", "</s>", "<pad>", "[CLS]", "<image>", "the", " and", "é"]
_ADDED = st.fixed_dictionaries(
    {"content": st.sampled_from(_TEXTS)},
    optional={name: st.booleans() for name in ("lstrip", "rstrip", "normalized", "single_word", "special")},
)
_TYPED = _ADDED.map(lambda token: {"__type": "AddedToken"} | token)
_TOKEN = st.sampled_from(_TEXTS) | _TYPED
_NAMED = st.dictionaries(st.sampled_from(_NAMES), _TOKEN | st.none(), max_size=4).map(
    # transformers takes null for a standard name alone
    lambda tokens: {name: token for name, token in tokens.items() if token is not None or name != "image_token"}
)
_LISTED = st.lists(_TOKEN, max_size=3)
_DICTS = st.dictionaries(st.sampled_from(["boi_token", "image_token", "audio"]), _TOKEN, max_size=2)
_EXTRAS = st.fixed_dictionaries(
    {}, optional={"extra_special_tokens": _LISTED | _DICTS, "additional_special_tokens": _LISTED | _DICTS}
)
_OF_MODEL = st.fixed_dictionaries(
    {},
    optional={
        "model_specific_special_tokens": st.none()
        | st.dictionaries(st.sampled_from(["boi_token", "image_token", "audio", "bos_token"]), _TOKEN, max_size=2)
    },
)
_CONFIGS = st.tuples(_NAMED, _EXTRAS, _OF_MODEL).map(lambda parts: parts[0] | parts[1] | parts[2])
_LEGACY = st.fixed_dictionaries(
    {},
    optional={
        "special_tokens_map": st.tuples(
            st.dictionaries(st.sampled_from(_NAMES), st.sampled_from(_TEXTS) | _ADDED, max_size=3), _EXTRAS
        ).map(lambda parts: parts[0] | parts[1]),
        "added_tokens": st.dictionaries(st.sampled_from(["<new>", "the", "é"]), st.integers(1200, 1204), max_size=3),
    },
)
_PRINTED = "".join(f"[{{{{ {name} }}}}]" for name in [*_NAMES, "boi_token", "audio"]) + "{{ messages[0].content }}"
_TEXT = "THE in the end the <s> and é </s> <pad>the\n<image><new>  [CLS] "


@given(config=_CONFIGS, files=_LEGACY, marks=st.lists(st.sampled_from(_TEXTS[:5]), unique=True, max_size=3))
@settings(max_examples=150, deadline=None)
def test_tokens_are_found_wherever_transformers_finds_them(
    config: dict[str, Any], files: dict[str, dict[str, Any]], marks: list[str]
) -> None:
    compared(lambda: folder_of(config | {"chat_template": _PRINTED}, tuple(marks), **files))


@given(
    config=_CONFIGS,
    decoder=st.dictionaries(st.integers(1200, 1204).map(str), _ADDED, max_size=3),
    files=_LEGACY,
    marks=st.lists(st.sampled_from(_TEXTS[:5]), unique=True, max_size=3),
)
@settings(max_examples=150, deadline=None)
def test_a_configuration_that_lists_its_tokens_needs_no_companions(
    config: dict[str, Any], decoder: dict[str, Any], files: dict[str, dict[str, Any]], marks: list[str]
) -> None:
    whole = config | {"added_tokens_decoder": decoder, "chat_template": _PRINTED}
    compared(lambda: folder_of(whole, tuple(marks), **files))


_OF_MODEL_ALONE = {"model_specific_special_tokens": {"image_token": "<image>", "audio": "the"}}


@pytest.mark.parametrize(
    ("config", "files", "marks"),
    [
        # Two added tokens have one id, and a name is one of them.
        (
            {},
            {
                "added_tokens": {"the": 1300, "<new>": 1300},
                "special_tokens_map": {"bos_token": {"content": "the", "lstrip": True}},
            },
            (),
        ),
        ({"bos_token": "the"}, {"added_tokens": {"<new>": 1300, "the": 1300}}, ()),
        # An added token has the id of one of tokenizer.json.
        ({}, {"added_tokens": {"the": 1200}}, ("<s>",)),
        (_OF_MODEL_ALONE, {}, ()),
        (_OF_MODEL_ALONE | {"added_tokens_decoder": {}}, {}, ()),
        (_OF_MODEL_ALONE, {"special_tokens_map": {"extra_special_tokens": {"boi_token": "<s>"}}}, ()),
        (_OF_MODEL_ALONE | {"boi_token": "<s>"}, {}, ()),
    ],
)
def test_conflicting_tokens_are_resolved_like_transformers(
    config: dict[str, Any], files: dict[str, dict[str, Any]], marks: tuple[str, ...]
) -> None:
    folder = folder_of(config | {"chat_template": _PRINTED}, marks, **files)
    same(*both(folder), _TEXT)


def test_model_specific_tokens_reach_the_template() -> None:
    folder = folder_of({**_OF_MODEL_ALONE, "chat_template": "{{ image_token }}{{ audio }}: {{ messages[0].content }}"})
    assert load_tokenizer(str(folder)).render("Hi") == "<image>the: Hi"


def compared(make: Callable[[], Path]) -> None:
    folder = make()
    try:
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
    except Exception:  # what it does not take need not be taken
        return
    same(load_tokenizer(str(folder), keeps_control=True), theirs, _TEXT)


@pytest.mark.parametrize(
    "config",
    [
        {"bos_token": 7},
        {"bos_token": {"lstrip": True}},
        {"extra_special_tokens": 7},
        {"extra_special_tokens": [7]},
        {"extra_special_tokens": {"image_token": 7}},
        {"model_specific_special_tokens": {"image_token": None}},
        {"model_specific_special_tokens": 7},
        {"added_tokens_decoder": {"x": "<s>"}},
        {"added_tokens_decoder": ["<s>"]},
    ],
)
def test_an_invalid_token_is_reported(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"tokenizer: .* has special tokens that cannot be read"):
        load_tokenizer(str(folder_of(config)))


def test_the_hash_covers_added_tokens() -> None:
    plain, same_tokens = folder_of({}, ("<s>",)), folder_of({"bos_token": "<s>"}, ("<s>",))
    more = folder_of({"bos_token": "<t>"}, ("<s>",))
    hashes = [load_tokenizer(str(folder)).sha256 for folder in (plain, same_tokens, more)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_special_tokens_may_be_split() -> None:
    ours, theirs = both(folder_of({"split_special_tokens": True, "chat_template": _PRINTED}, ("<s>",)))
    same(ours, theirs, "a <s> b")


def test_a_template_of_models_that_also_see_is_found_in_its_own_file() -> None:
    template = "«{{ messages[0].content }}»"
    assert load_tokenizer(str(folder_of({}, chat_template={"chat_template": template}))).render("Hi") == "«Hi»"
    config = {"chat_template": "{{ messages[0].content }}!"}
    assert load_tokenizer(str(folder_of(config, chat_template={"chat_template": template}))).render("Hi") == "Hi!"
