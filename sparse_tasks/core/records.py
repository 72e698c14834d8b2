"""Typed records of what is written to disk or handed over, and their shared field types.

A record is a ``msgspec.Struct``: making one from JSON checks types, ranges and names of fields in one step. The JSON
Schemas in ``sparse_tasks.schemas`` are generated from these types.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sparse_tasks.core.errors import DataError
from sparse_tasks.core.shards import SHARD_PATTERN, shard_prefix

JsonObject: TypeAlias = dict[str, Any]
"""An object of JSON that may hold anything, such as the arguments of somebody else's code."""

Phase: TypeAlias = Literal["prefill", "decode"]
Sha256: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Name: TypeAlias = Annotated[str, Meta(pattern=r"^[a-z0-9_]+$(?!\n)")]
"""A registered name."""
Text: TypeAlias = Annotated[str, Meta(min_length=1)]
LARGEST: Final = 2**63 - 1
"""Largest whole number of a record: what 64 bits hold."""
Natural: TypeAlias = Annotated[int, Meta(ge=0, le=LARGEST)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=LARGEST)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Difference: TypeAlias = Annotated[float, Meta(ge=-1, le=1)]
Measure: TypeAlias = Annotated[float, Meta(ge=0)]
Phases: TypeAlias = Annotated[dict[Phase, Share], Meta(min_length=1)]
"""A share for each phase that was measured."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records: immutable, keyword-only, no unknown fields."""


R = TypeVar("R", bound=Record)

_PLACE: Final = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>.*)`$", re.DOTALL)
_GOT: Final = re.compile(r", got `[^`]*`$")
_STEP: Final = re.compile(r"\[[0-9.]+\]|[^.\[]+")


def unique(**lists: list[Any]) -> None:
    """Refuse named lists with duplicate entries.

    Raises:
        ValueError: One does.
    """
    for name, entries in lists.items():
        if len(set(entries)) < len(entries):
            raise ValueError(f"`{name}` has an entry twice")


def convert(value: object, kind: type[R], where: object) -> R:
    """Convert plain JSON values to a record.

    Args:
        value: Parsed JSON.
        kind: Type of the record.
        where: Name of the file or the line, for the error.

    Raises:
        DataError: The value is not valid; the message names the field.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{where}: {_in_words(error, value, kind)}") from error


def problem(value: object, kind: type[Record]) -> str | None:
    """The invalid field of a record and the reason; None if ``value`` is valid."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return _in_words(error, value, kind)
    return None


def _in_words(error: msgspec.ValidationError, value: object, kind: type[Record]) -> str:
    path, reason = located(error, value, kind)
    return f"{path or 'value'}: {reason}"


def located(error: msgspec.ValidationError, value: object, kind: type[Record]) -> tuple[str, str]:
    """Path of the invalid field ("" for the whole value), and what is wrong with it.

    Args:
        error: Error of the conversion.
        value: The parsed JSON that was converted.
        kind: Type of the record.
    """
    problem, path = str(error), ""
    if place := _PLACE.search(problem):
        problem, path = problem[: place.start()], place["path"]
    steps, expected = _STEP.findall(path), _GOT.sub("", problem)
    path = path.removesuffix("[...]")
    if problem.startswith("Invalid enum"):
        return path, f"{problem[0].lower()}{problem[1:]}; choose from {', '.join(_choices(kind, steps))}"
    if not expected.startswith("Expected"):
        return path, f"{problem[0].lower()}{problem[1:]}"  # the message quotes the name
    for key in steps:
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.startswith("["):
            value = value[int(key[1:-1])]
        else:
            break  # "[...]": the key is not given
    shown = json.dumps(value, ensure_ascii=False, default=repr)
    return path, f"{expected[0].lower()}{expected[1:]}, not {shown if len(shown) <= 80 else shown[:77] + '...'}"


def to_builtins(record: Record) -> JsonObject:
    """The record as plain JSON values, fields in order."""
    plain: JsonObject = msgspec.to_builtins(record)
    return plain


def _choices(kind: type[Record], steps: list[str]) -> list[str]:
    """The choices of a field, or those of an object's keys."""
    found: Any = msgspec.inspect.type_info(kind)
    for step in steps:
        if isinstance(found, msgspec.inspect.StructType):
            found = next(field.type for field in found.fields if field.encode_name == step)
        else:
            found = getattr(found, "item_type", None) or getattr(found, "value_type", None)
        for part in getattr(found, "types", ()):  # unions with None
            if not isinstance(part, msgspec.inspect.NoneType):
                found = part
        found = getattr(found, "type", found)  # strip the metadata
    found = getattr(found, "key_type", found)
    return [str(value) for value in getattr(found, "values", ())]


class Generator(Record, frozen=True, kw_only=True):
    """The program that generated a data set."""

    name: str
    version: str


class ManifestTask(Record, frozen=True, kw_only=True):
    """A task as generated.

    Attributes:
        version: Version of the task; another version gives other bytes for the same key.
        parameters: All parameters with their values.
        depth: As in ``--depth``.
        max_new_tokens: Answer budget in tokens.
        template: The user's own wording, by part.
    """

    version: Count
    parameters: JsonObject
    depth: str
    max_new_tokens: Count
    template: dict[str, Text] | UnsetType = UNSET


class ManifestRequest(Record, frozen=True, kw_only=True):
    """The tasks, lengths and options that a data set was generated with.

    Attributes:
        tasks: By name.
        lengths: Target lengths in tokens.
        samples: Samples of each task at each length.
        seed: Seed of the data set.
        length_includes_output: Whether the answer budget was subtracted from the length.
        question_position: Where the question stands: before and after the context, or after it.
        completed: Whether questions are asked as completions; omitted if not.
        begin_answer: Whether prompts end inside the answer; omitted if not.
        control_tokens: ``keep`` if control tokens spelt in a prompt are tokens; omitted if they are text.
    """

    tasks: Annotated[dict[Name, ManifestTask], Meta(min_length=1)]
    lengths: Annotated[list[Count], Meta(min_length=1, extra_json_schema={"uniqueItems": True})]
    samples: Count
    seed: Natural
    length_includes_output: bool
    question_position: Literal["both", "after"]
    completed: bool | UnsetType = UNSET
    begin_answer: bool | UnsetType = UNSET
    control_tokens: Literal["keep"] | UnsetType = UNSET

    def __post_init__(self) -> None:
        unique(lengths=self.lengths)


class TokenizerRecord(Record, frozen=True, kw_only=True):
    """The tokenizer that counted the tokens."""

    name: str
    sha256: Sha256


class ChatTemplateRecord(Record, frozen=True, kw_only=True):
    """The chat template that rendered the prompts."""

    sha256: Sha256
    source: str
    special_tokens: dict[str, str]


class DataFile(Record, frozen=True, kw_only=True):
    """A Parquet file of a data set.

    Attributes:
        sha256: Hash of the file, which depends on the Parquet writer.
        samples_sha256: Hash of its samples, independent of the writer; omitted in older files.
        encoder: Name and version of the encoder that counted; omitted for Hugging Face's.
    """

    bytes: Count
    rows: Count
    sha256: Sha256
    tokens: Count
    samples_sha256: Sha256 | UnsetType = UNSET
    encoder: Text | UnsetType = UNSET


class Corpus(Record, frozen=True, kw_only=True):
    """A third-party corpus that tasks quote."""

    name: str
    sha256: Sha256
    origin: str
    revision: str | None
    licence: str | None


ShardName: TypeAlias = Annotated[str, Meta(pattern=SHARD_PATTERN)]


class Description(Record, frozen=True, kw_only=True):
    """What a data set was generated from and with: the samples follow from it.

    Attributes:
        generator: The program.
        libraries: Versions of the packages that affect a sample's text.
        corpora: Third-party texts; omitted if there are none.
        request: What was generated.
        tokenizer: The tokenizer that counted.
        chat_template: The template that rendered the prompts; None for bare prompts.
    """

    format: Literal["sparse-tasks-dataset"]
    schema_version: Literal["1.0"]
    generator: Generator
    libraries: dict[str, str]
    corpora: Annotated[list[Corpus], Meta(min_length=1)] | UnsetType = UNSET
    request: ManifestRequest
    tokenizer: TokenizerRecord
    chat_template: ChatTemplateRecord | None


class Manifest(Description, frozen=True, kw_only=True):
    """The manifest of a data set folder: what is in it, and what it was generated from and with.

    Attributes:
        fingerprint: Hash of everything that determines the bytes.
        card_sha256: Hash of the card.
        files: The Parquet files by path.
    """

    fingerprint: Sha256
    card_sha256: Sha256
    files: Annotated[dict[ShardName, DataFile], Meta(min_length=1)]

    @property
    def description(self) -> Description:
        """What it was generated from and with."""
        return Description(**{name: getattr(self, name) for name in Description.__struct_fields__})

    def files_of(self, length: int, task: str) -> dict[str, DataFile]:
        """Files of a task at a length, in order, by path."""
        prefix = shard_prefix(length, task)
        return {path: self.files[path] for path in sorted(self.files) if path.startswith(prefix)}
