"""The data set card: shown by the Hugging Face Hub, and read by ``datasets`` for the configurations."""

from __future__ import annotations

from typing import Any

from sparse_tasks import __version__
from sparse_tasks.core.hub import split_hub_id
from sparse_tasks.core.length import label
from sparse_tasks.core.shards import shard_prefix
from sparse_tasks.generators.corpora import CORPORA, Corpus
from sparse_tasks.generators.dataset import DatasetFolder, shards
from sparse_tasks.generators.excerpt import excerpt
from sparse_tasks.generators.request import Request
from sparse_tasks.generators.table import SCHEMA, rows_of
from sparse_tasks.generators.task import TASKS

_SIZES = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
_OWN_LICENCE = "cc-by-4.0"
_IDENTIFIERS = {"CC BY 4.0": "cc-by-4.0", "CC BY-SA 4.0": "cc-by-sa-4.0"}
_TYPES = {"string": "string", "int64": "int64", "double": "float64"}


def card(folder: DatasetFolder) -> str:
    """The card of a complete folder."""
    import jinja2
    import yaml

    request = folder.request
    configs = _configs(folder)
    total = sum(entry["rows"] for entry in folder.files.values())
    own = any("corpus" not in task.texts for task in request.tasks)
    header = {
        "license": _licences(request, own),
        "language": sorted({str(task.settings().get("language", "en")) for task in request.tasks}),
        "pretty_name": "sparse-tasks",
        "annotations_creators": _creators(request, own),
        "language_creators": _creators(request, own),
        "source_datasets": [*(["original"] if own else []), *(_source(corpus) for corpus in request.corpora)],
        "task_categories": ["question-answering", "text-generation"],
        "size_categories": [next((name for most, name in _SIZES if total < most), "1M<n<10M")],
        "tags": [
            *("long-context", "sparse-attention", "kv-cache-compression", "benchmark"),
            *(["synthetic"] if own else []),
            "sparse-tasks",
        ],
        "configs": [
            {"config_name": name, "data_files": [{"split": "test", "path": paths}]} for name, paths, _, _ in configs
        ],
        "dataset_info": [_info(folder, name, paths, rows) for name, paths, rows, _ in configs],
    }
    environment = jinja2.Environment(  # noqa: S701  it writes Markdown, not HTML
        loader=jinja2.PackageLoader(__package__, "templates"),
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    row = rows_of(folder.store.read(next(shards(request)).path), most=1)[0]
    example = "".join(
        text if kind != "gap" else f"\n\n{text}\n\n" for kind, text in excerpt(row["prompt"], row["evidence"], 150, 3)
    )
    return environment.get_template("card.md.jinja").render(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=1000),
        request=request,
        description=folder.description,
        configs=configs,
        tasks=[TASKS.get(task.name) for task in request.tasks],
        settings={task.name: task.settings() for task in request.tasks},
        columns=_COLUMNS | (_BEGUN if request.begin_answer else {}),
        corpora=_corpora(request),
        own=own,
        example=example.replace("```", "'''"),
        row=row,
        version=__version__,
    )


def _licences(request: Request, own: bool) -> str | list[str]:
    """Licence identifiers of the Hub; a single one without a list."""
    licences = [_OWN_LICENCE] if own else []
    for corpus in request.corpora:
        licence = CORPORA.get(corpus.name).licence
        licences.append("unknown" if licence is None else _IDENTIFIERS.get(licence, "other"))
    unique = list(dict.fromkeys(licences))
    return unique[0] if len(unique) == 1 else unique


def _creators(request: Request, own: bool) -> list[str]:
    return [*(["machine-generated"] if own else []), *(["found"] if request.corpora else [])]


def _source(corpus: Corpus) -> str:
    """The Hub's name for the source of a data set."""
    known = CORPORA.get(corpus.name).hub
    return "extended|" + (f"other-{corpus.name}" if known is None else split_hub_id(known)[0].partition("/")[2])


def _corpora(request: Request) -> list[dict[str, Any]]:
    """Third-party texts, for the card."""
    return [
        corpus.describe()
        | {
            "summary": CORPORA.get(corpus.name).summary,
            "tasks": [task.name for task in request.tasks if corpus.name in task.texts.values()],
        }
        for corpus in request.corpora
    ]


def _configs(folder: DatasetFolder) -> list[tuple[str, list[str], int, str]]:
    """Name, files, rows and meaning of each configuration: every task at every length, then all tasks of a length."""
    configs = []
    for length in folder.request.lengths:
        for task in folder.request.tasks:
            configs.append((f"{task.name}_{label(length)}", shard_prefix(length, task.name), task.summary))
        configs.append((label(length), f"{length}/", f"all tasks of {length:,} tokens"))
    return [
        (name, paths, sum(folder.files[path]["rows"] for path in paths), summary)
        for name, prefix, summary in configs
        if (paths := sorted(path for path in folder.files if path.startswith(prefix)))
    ]


def _info(folder: DatasetFolder, name: str, paths: list[str], rows: int) -> dict[str, Any]:
    size = sum(map(folder.unpacked_bytes, paths))
    return {
        "config_name": name,
        "features": [_feature(field) for field in SCHEMA],
        "splits": [{"name": "test", "num_bytes": size, "num_examples": rows}],
        "download_size": sum(folder.files[path]["bytes"] for path in paths),
        "dataset_size": size,
    }


def _feature(field: Any) -> dict[str, Any]:
    """A column as ``dataset_info`` describes it."""
    kind = field.type
    if str(kind) in _TYPES:
        return {"name": field.name, "dtype": _TYPES[str(kind)]}
    inner = kind.value_type
    return {"name": field.name, "list": _TYPES.get(str(inner)) or [_feature(part) for part in inner]}


_COLUMNS = {
    "id": "stable and unique",
    "task": "name of the task",
    "index": "number of the sample within its task and length",
    "length": "target in tokens",
    "input_tokens": "tokens of the prompt as the engine gets it, chat template included",
    "max_new_tokens": "answer budget in tokens",
    "prompt": "the user's message",
    "context": "the long text in it",
    "question": "the question behind it",
    "answer_prefix": "how the prompt opens the answer; empty under a chat template",
    "answer": "gold, as a perfect model writes it between the answer tags",
    "answers": "gold, as the metric compares it",
    "metric": "name of the metric",
    "evidence": "stretches of the prompt that the answer needs: start, end (characters), depth (0 to 1), label",
    "question_position": "both (before and after the context) or after (prompt = context + question + answer_prefix)",
    "params": "the task's parameters and what was drawn for the sample, as JSON",
    "seed": "seed of the data set",
    "turns": "all questions on the context where a sample asks several, the first one included; else empty",
}
_BEGUN = {
    "answer_prefix": "beginning of the answer: in the model's turn, or at the end of the prompt without a template",
    "question_position": "both (before and after the context) or after",
}
