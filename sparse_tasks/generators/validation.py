"""Validation of a data set folder, of which nothing is trusted."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msgspec import UNSET

from sparse_tasks.core.beginning import ANSWER
from sparse_tasks.core.errors import DataError, UsageError, quoted
from sparse_tasks.core.files import sha256_of
from sparse_tasks.core.format import counted
from sparse_tasks.core.length import TOLERANCE, label
from sparse_tasks.core.manifest import MANIFEST, read_manifest
from sparse_tasks.core.records import Manifest, convert, problem, to_builtins
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.shards import ShardPath
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.core.tokenizers.fast import EncoderError, Fastokens
from sparse_tasks.core.tokenizers.template import ChatTemplate
from sparse_tasks.core.turns import messages, stem_of
from sparse_tasks.generators.corpora import Corpus, mount
from sparse_tasks.generators.dataset import CARD, fingerprint
from sparse_tasks.generators.encoding import Notice, by_both, choose, compare, with_fallback
from sparse_tasks.generators.processes import in_processes
from sparse_tasks.generators.table import read_rows, samples_sha256
from sparse_tasks.generators.task import TASKS, Task
from sparse_tasks.generators.wording import parse_template

GoldScore = Callable[[str, str, Sequence[str]], float]
"""Score of a gold answer: metric, answer, answers."""


@dataclass(frozen=True)
class Problem:
    """A problem and its place."""

    where: str
    what: str


@dataclass
class Report:
    """Result of a validation."""

    problems: list[Problem] = field(default_factory=list)
    samples: int = 0
    tokens: int = 0
    files: int = 0


@dataclass
class _Checked:
    """Result of checking one shard."""

    problems: list[Problem]
    samples: int = 0
    ids: list[tuple[str, str]] = field(default_factory=list)
    prompts: list[tuple[bytes, str]] = field(default_factory=list)
    tokens: int = 0


def validate_folder(
    path: Path,
    gold_score: GoldScore,
    tokenizer: str | None = None,
    workers: int = 1,
    progress: Callable[[int], None] = lambda rows: None,
    corpora: Iterable[Corpus] = (),
    full: bool = False,
    notice: Notice = warnings.warn,
) -> Report:
    """Check manifest, files, schema, lengths, oracle answers and uniqueness.

    Args:
        path: The folder.
        gold_score: Scores a gold answer with the sample's metric; it must return 1.
        tokenizer: Source of the tokenizer, if the manifest's name is not one.
        workers: Processes that check shards.
        progress: Called after each shard with its number of samples.
        corpora: Source texts of samples, in which their questions are looked up. Without them, only the prompt itself
            is checked.
        full: Whether Hugging Face's encoder encodes every prompt; else, if a faster encoder is proven, one in a hundred
            of each file.
        notice: Called with what a user should know.

    Raises:
        UsageError: There is no data set, its tokenizer cannot be found, or a corpus differs from the data set's.
        DataError: The manifest cannot be read.
    """
    manifest = read_manifest(path)
    loaded = _tokenizer(manifest, tokenizer)
    texts = _corpora(manifest, corpora)
    mount(texts)
    tokens = sum(file.tokens for file in manifest.files.values())

    def check(encoder: type[Fastokens] | None) -> Report:
        checker = _Checker(path, manifest, loaded.with_encoder(encoder if workers == 1 else None), gold_score)
        return _report(checker, _Means(tokenizer, encoder, workers, texts), progress)

    return with_fallback(loaded, choose(loaded, tokens, "hf" if full else "auto", notice), check, notice)


@dataclass(frozen=True)
class _Means:
    """What processes need to check shards."""

    tokenizer: str | None
    encoder: type[Fastokens] | None
    workers: int
    corpora: tuple[Corpus, ...]


def _report(checker: _Checker, means: _Means, progress: Callable[[int], None]) -> Report:
    path, manifest = checker.path, checker.manifest
    report = Report(list(_check_files(path, manifest)))
    names = [name for name in manifest.files if (path / name).is_file()]
    ids: dict[str, str] = {}
    prompts: dict[bytes, str] = {}
    with closing(_check_shards(checker, names, means)) as shards:
        for checked in shards:
            report.problems += checked.problems
            report.files += 1
            report.samples += checked.samples
            report.tokens += checked.tokens
            for prompt, where in checked.prompts:
                if (first := prompts.setdefault(prompt, where)) != where:
                    report.problems.append(Problem(where, f"has the prompt of {first}"))
            for id, where in checked.ids:
                if (first := ids.setdefault(id, where)) != where:
                    report.problems.append(Problem(where, f"has the id of {first}: {id}"))
            progress(checked.samples)
    return report


def _tokenizer(manifest: Manifest, source: str | None) -> PromptTokenizer:
    """The tokenizer that the manifest names, with the template that the manifest holds."""
    name = manifest.tokenizer.name
    try:
        keeps = bool(manifest.request.control_tokens)
        bare = load_tokenizer(source or name, "none", keeps_control=keeps)
    except UsageError as error:
        if source is not None:
            raise
        raise UsageError(
            "tokenizer", name, "is where the data set was made; say where it is here with --tokenizer"
        ) from error
    if bare.sha256 != manifest.tokenizer.sha256:
        raise UsageError(
            "tokenizer", source or name, f"is another one than the data set's (SHA-256 {bare.sha256[:16]}…)"
        )
    wrapped = manifest.chat_template
    template = None if wrapped is None else ChatTemplate(wrapped.source, wrapped.special_tokens)
    if wrapped is not None and template is not None and template.sha256 != wrapped.sha256:
        raise DataError(f"{MANIFEST}: chat_template does not have the hash that stands beside it")
    return bare.with_template(template)


def _corpora(manifest: Manifest, corpora: Iterable[Corpus]) -> tuple[Corpus, ...]:
    """The corpora, checked to be those of the data set."""
    known = {corpus.name: corpus.sha256 for corpus in manifest.corpora or []}
    texts = tuple(corpora)
    for corpus in texts:
        if corpus.name not in known:
            raise UsageError("corpus", corpus.name, "is none of the data set's; leave it out")
        if corpus.sha256 != known[corpus.name]:
            what = f"differs from the data set's (SHA-256 {known[corpus.name][:16]}…)"
            raise UsageError("corpus", f"{corpus.name}={corpus.origin}", what)
    return texts


def _check_files(path: Path, manifest: Manifest) -> Iterator[Problem]:
    request, listed = manifest.request, manifest.files
    if fingerprint(to_builtins(manifest)) != manifest.fingerprint:
        yield Problem(MANIFEST, "the configuration does not have the recorded fingerprint")
    card = path / CARD
    if not card.is_file() or sha256_of(card) != manifest.card_sha256:
        yield Problem(CARD, "is missing or was changed")
    for name, entry in listed.items():
        file = path / name
        if int(name.partition("/")[0]) not in request.lengths:
            yield Problem(name, "has a length that the data set does not have")
        if not file.is_file():
            yield Problem(name, "is a folder" if file.is_dir() else "is missing")
        elif sha256_of(file) != entry.sha256:
            yield Problem(name, "does not have the recorded SHA-256")
        elif file.stat().st_size != entry.bytes:
            yield Problem(name, f"has {file.stat().st_size:,} bytes; {MANIFEST} says {entry.bytes:,}")
    for file in sorted(path.glob("**/*.parquet")):
        if (name := file.relative_to(path).as_posix()) not in listed:
            yield Problem(name, "is not in the manifest")
    for length in request.lengths:
        for task in request.tasks:
            rows = {name: entry.rows for name, entry in manifest.files_of(length, task).items()}
            if sum(rows.values()) != request.samples:
                samples, at = counted(sum(rows.values()), "sample"), label(length)
                files = ", ".join(f"{name}: {n:,}" for name, n in rows.items()) or "no file"
                what = f"counts {samples} of {task} at {at} in its files ({files}), and asks for {request.samples:,}"
                yield Problem(MANIFEST, what)


@dataclass
class _Checker:
    """Checks shards with the same settings."""

    path: Path
    manifest: Manifest
    tokenizer: PromptTokenizer
    gold_score: GoldScore


def _check_shards(checker: _Checker, names: list[str], means: _Means) -> Generator[_Checked, None, None]:
    if means.workers > 1 and len(names) > 1:
        arguments = (checker.path, checker.manifest, checker.gold_score, means)
        yield from in_processes(_check_in_process, names, min(means.workers, len(names)), _start, arguments)
        return
    for name in names:
        yield _check_shard(checker, name)


_checker: _Checker | None = None


def _start(path: Path, manifest: Manifest, gold_score: GoldScore, means: _Means) -> None:
    global _checker
    mount(means.corpora)
    tokenizer = _tokenizer(manifest, means.tokenizer).with_encoder(means.encoder)
    _checker = _Checker(path, manifest, tokenizer, gold_score)


def _check_in_process(name: str) -> _Checked:
    if _checker is None:
        raise RuntimeError("the worker was not started")
    return _check_shard(_checker, name)


def _check_shard(checker: _Checker, name: str) -> _Checked:
    manifest, checked = checker.manifest, _Checked([])
    try:
        rows = read_rows(checker.path / name)
    except DataError as error:
        checked.problems.append(Problem(name, str(error).removeprefix(f"{checker.path / name} ")))
        return checked
    checked.samples = len(rows)
    if len(rows) != manifest.files[name].rows:
        what = f"has {counted(len(rows), 'row')}; {MANIFEST} says {manifest.files[name].rows:,}"
        checked.problems.append(Problem(name, what))
    shard = ShardPath.parse(name)
    if shard is None:  # the manifest's schema excludes such names
        raise ValueError(f"{name} is not the path of a data file")
    try:
        task = TASKS.get(shard.task).from_settings(manifest.request.tasks[shard.task].parameters)
    except (UsageError, KeyError) as error:
        checked.problems.append(Problem(name, f"belongs to no task that is known here: {error}"))
        return checked
    # Every full shard of a task and length has as many rows as the first one.
    first = str(replace(shard, number=0))
    offset = shard.number * (manifest.files[first].rows if first in manifest.files else 0)
    both = by_both(0, len(rows))
    for i, row in enumerate(rows):
        where = f"{name}, row {i}" + (f" ({row['id']})" if row["id"] else "")
        invalid = problem(row, Sample)
        wrong = [invalid] if invalid else []
        if not wrong:
            wrong = list(_check_row(row, task, shard.length, offset + i, checker, both=i in both))
            checked.tokens += row["input_tokens"]
            digest = hashlib.blake2b(row["prompt"].encode(), digest_size=16).digest()
            checked.prompts.append((digest, f"{name}, row {i}"))
        checked.ids.append((str(row["id"]), f"{name}, row {i}"))
        checked.problems += [Problem(where, what) for what in wrong]
    entry = manifest.files[name]
    if not checked.problems and checked.tokens != entry.tokens:
        what = f"has prompts of {checked.tokens:,} tokens together; {MANIFEST} says {entry.tokens:,}"
        checked.problems.append(Problem(name, what))
    if entry.samples_sha256 is not UNSET and samples_sha256(rows) != entry.samples_sha256:
        checked.problems.append(Problem(name, f"holds other samples than those of which {MANIFEST} has the hash"))
    return checked


def _check_row(
    row: dict[str, Any], task: Task, length: int, index: int, checker: _Checker, both: bool
) -> Iterator[str]:
    """All problems of one sample; with ``both``, both encoders encode its prompt.

    Raises:
        EncoderError: They differ.
    """
    request = checker.manifest.request
    recorded = request.tasks[task.name]
    expected: dict[str, dict[str, object]] = {
        "the file's name": {"task": task.name, "length": length},
        "its place": {"index": index},
        MANIFEST: {
            "seed": request.seed,
            "question_position": request.question_position,
            "max_new_tokens": recorded.max_new_tokens,
        },
    }
    for source, values in expected.items():
        for column, value in values.items():
            if row[column] != value:
                yield f"{column} is {row[column]!r}; by {source} it is {value!r}"
    if not row["id"].startswith(f"{task.name}-{length}-{index:05d}-"):
        yield "id does not name the sample's task, length and index"
    beginning = ANSWER if request.begin_answer is True and checker.manifest.chat_template else ""
    yield from _check_parts(row, beginning)
    yield from _check_evidence(row)
    target = length - recorded.max_new_tokens if request.length_includes_output else length
    try:
        tokens = checker.tokenizer.count(row["prompt"], beginning)
        if both and checker.tokenizer.encoder is not None:
            rendered = checker.tokenizer.render(row["prompt"], beginning)
            compare(checker.tokenizer, rendered, row["prompt"], row["id"])
        if tokens != row["input_tokens"]:
            yield f"the prompt has {tokens:,} tokens; its input_tokens says {row['input_tokens']:,}"
        if not target - TOLERANCE <= tokens <= target:
            yield f"the prompt has {tokens:,} tokens; {MANIFEST} asks for {target - TOLERANCE:,} to {target:,}"
        params = json.loads(row["params"])
        drawn = params.pop("drawn", None)
        if params != recorded.parameters | {"depth": recorded.depth} or not isinstance(drawn, dict):
            yield "params differ from the data set's parameters"
        canonical = row["prompt"]
        if recorded.template:
            canonical = parse_template(task.name, recorded.template, MANIFEST).read_back(task, canonical)
        contradictions = task.audit(canonical)  # reads everything, where the oracle needs only a part
        if (wrong := task.verify(canonical, row["answer"], row["answers"])) is not None:
            yield wrong
        yield from contradictions
        yield from _check_gold(row, task, checker)
        yield from _check_turns(row, task, checker, beginning)
    except EncoderError:
        raise
    except (DataError, UsageError, ValueError) as error:
        yield str(error)
    except Exception as error:  # the data may be anything, and so may a third-party oracle
        yield f"it cannot be checked: {error!r}"


def _check_gold(row: dict[str, Any], task: Task, checker: _Checker) -> Iterator[str]:
    """Problems of the gold answer of a sample, or of one of its turns."""
    if (value := checker.gold_score(row["metric"], row["answer"], row["answers"])) != 1.0:
        yield f"the stored answer scores {value:g} by {row['metric']} against answers, not 1"
    for entry in sorted(set(row["answers"])):
        if row["answers"].count(entry) > row["answer"].count(entry) and not task.references:
            yield f"answers holds {quoted(entry)}, which the stored answer does not"


def _check_turns(row: dict[str, Any], task: Task, checker: _Checker, beginning: str) -> Iterator[str]:
    """Problems of the questions of a sample that asks several."""
    sample = convert(row, Sample, row["id"])
    prefix = sample.answer_prefix.removesuffix(beginning)
    stem = stem_of(sample.prompt, sample.question, prefix)
    for number, turn in enumerate(sample.turns):
        where = f"turns[{number}]"
        if number == 0 and any(
            getattr(turn, name) != getattr(sample, name)
            for name in ("question", "answer", "answers", "metric", "input_tokens", "evidence")
        ):
            yield f"{where} is not the sample's own question"
        if turn.history > number:
            yield f"{where}.history is {turn.history}, and {number} questions stand before it"
            continue
        first, *later = messages(stem, sample.turns, number, prefix)
        if (tokens := checker.tokenizer.count(first, beginning, later)) != turn.input_tokens:
            yield f"{where} has a prompt of {tokens:,} tokens; its input_tokens says {turn.input_tokens:,}"
        if (wrong := task.verify(stem + turn.question, turn.answer, turn.answers)) is not None:
            yield f"{where}: {wrong}"
        parts = to_builtins(turn)
        yield from (f"{where}: {wrong}" for wrong in _check_gold(parts, task, checker))
        yield from (f"{where}: {wrong}" for wrong in _check_evidence(row | {"evidence": parts["evidence"]}))


def _check_parts(row: dict[str, Any], beginning: str) -> Iterator[str]:
    if not row["answer_prefix"].endswith(beginning):
        yield f"answer_prefix does not end in {beginning!r}, with which the answer begins"
    # It is in the model's turn, not in the prompt.
    end = row["context"] + row["question"] + row["answer_prefix"].removesuffix(beginning)
    if row["question_position"] == "after" and row["prompt"] != end:
        yield "prompt is not context + question + answer_prefix"
    if not row["prompt"].endswith(end):
        yield "prompt does not end in context + question + answer_prefix"


def _check_evidence(row: dict[str, Any]) -> Iterator[str]:
    start = row["prompt"].rfind(row["context"])
    end = start + len(row["context"])
    for span in row["evidence"]:
        if not start <= span["start"] < span["end"] <= end:
            yield f"evidence {span['start']} to {span['end']} lies outside the context"
        elif not abs((span["start"] - start) / len(row["context"]) - span["depth"]) <= 1e-5:
            yield f"evidence at {span['start']} does not have depth {span['depth']}"
        elif (words := row["prompt"][span["start"] : span["end"]]) != words.strip() or span["label"] not in words:
            yield f"evidence {span['start']} to {span['end']} does not begin and end with words that hold its label"
