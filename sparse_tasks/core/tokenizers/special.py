"""Special tokens of a tokenizer, from all files that ``transformers`` reads.

``tokenizer.json`` lists the special tokens but not their names: templates print ``bos_token``,
``image_token`` and others, which ``tokenizer_config.json`` names. Older versions name them in
``special_tokens_map.json``, and list further tokens in ``added_tokens.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tokenizers import AddedToken, Tokenizer

from sparse_tasks.core.records import JsonObject

_STANDARD: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized", "special")
_EXTRA: Final = "extra_special_tokens"
_OLDER: Final = "additional_special_tokens"  # used if the newer name is missing
_OF_MODEL: Final = "model_specific_special_tokens"  # used if the configuration has no other model-specific tokens


def special_tokens(
    config: JsonObject, read: Callable[[str], JsonObject], backend: Tokenizer
) -> tuple[dict[str, str], list[AddedToken]]:
    """Special tokens by their names in templates, and those that ``transformers`` adds to the vocabulary.

    Some of the latter may already be in the vocabulary, with the same or other properties.

    Args:
        config: Content of ``tokenizer_config.json``.
        read: Reads a companion file, used only if the configuration lists no tokens itself; empty if missing.
        backend: The tokenizer as its file describes it.

    Raises:
        ValueError: An entry is not a token.
    """
    init = dict(config)
    if not init.get(_EXTRA) and _OLDER in init:
        init[_EXTRA] = init.pop(_OLDER)
    # Model-specific tokens.
    own = {name: init.pop(name) for name in [*init] if _is_own(name) and isinstance(init[name], str)}
    own = own | _popped_names(init) or dict(init.get(_OF_MODEL) or {})
    listed = init.get("added_tokens_decoder")
    if listed is None:
        for name, value in read("special_tokens_map.json").items():
            if name == _EXTRA and isinstance(value, list):
                value = [*(init.get(name) or []), *map(_of_map, value)]
            init[name] = _of_map(value) if name != _EXTRA else value
        own |= _popped_names(init)
        named = {name: init[name] for name in _STANDARD if init.get(name) is not None}
        known = [*named.values(), *(init.get(_EXTRA) or [])]
        special = {_text(token) for token in known if not (isinstance(token, Mapping) and "__type" in token)}
        companion = read("added_tokens.json")
        tokens = {
            text: {"content": text, "special": text in special, "normalized": text not in special} for text in companion
        }
        # Of two texts with one id the later wins, and tokenizer.json takes precedence; both keep their names.
        taken = backend.get_added_tokens_decoder()
        listed = {index: tokens[text] for text, index in companion.items() if index not in taken}
        init |= {name: tokens.get(str(_text(value)), value) for name, value in named.items()}
    if _OLDER in init and _EXTRA not in init:
        init[_EXTRA] = init.pop(_OLDER)
    if backend.padding:
        init.setdefault("pad_token", backend.padding["pad_token"])
    named = {name: init.get(name) for name in _STANDARD} | _popped_names(init)  # in the order of being added
    named |= {name: value for name, value in init.items() if _is_own(name) and _text(value) is not None} | own
    named = {name: value for name, value in named.items() if value is not None or name not in _STANDARD}
    extra = init.get(_EXTRA) or []
    texts = {name: _token(value).content for name, value in named.items()}
    return texts, _added(
        [listed[index] for index in sorted(listed, key=int)], [*named.values(), *extra], texts, backend
    )


def _added(listed: list[object], others: list[object], named: dict[str, str], backend: Tokenizer) -> list[AddedToken]:
    added = [*map(_token, listed)]
    there = {token.content for token in (*backend.get_added_tokens_decoder().values(), *added)}
    seen = list[object]()
    for value in others:
        token = _token(value)
        # transformers treats a text and a token as two entries, of which the later one's properties apply.
        given = value if isinstance(value, str) else token
        if token.content not in there and given not in seen:
            seen.append(given)
            added.append(token)
    for token in added:
        token.special = token.special or token.content in named.values()
    return added


def _is_own(name: str) -> bool:
    return name.endswith("_token") and name not in _STANDARD


def _popped_names(init: JsonObject) -> JsonObject:
    """Further tokens that have names; a list of them is kept."""
    return dict(init.pop(_EXTRA)) if isinstance(init.get(_EXTRA), Mapping) else {}


def _of_map(value: object) -> object:
    """A token of ``special_tokens_map.json``: always special, given as a text or an object."""
    if not isinstance(value, Mapping):
        return value
    return {name: flag for name, flag in value.items() if name != "__type"} | {"special": True}


def _text(value: object) -> str | None:
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _token(value: object) -> AddedToken:
    text = _text(value)
    if text is None:
        raise ValueError(f"{value!r} is not a token")
    if not isinstance(value, Mapping):
        return AddedToken(text, special=True)
    return AddedToken(text, **{name: bool(value[name]) for name in _FLAGS if name in value})
