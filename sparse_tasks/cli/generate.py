"""``sparse-tasks generate``."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparse_tasks.cli.completion import complete_locale_or_setting, complete_preset, complete_task, complete_tokenizer
from sparse_tasks.cli.output import Format, frameless, print_json, print_table, warn
from sparse_tasks.cli.progress import Bar, duration
from sparse_tasks.core.format import size

if TYPE_CHECKING:
    from sparse_tasks.core.records import Manifest
    from sparse_tasks.core.tokenizers import PromptTokenizer
    from sparse_tasks.generators.dataset import Shard
    from sparse_tasks.generators.request import Request


def generate(
    length: Annotated[
        list[str],
        typer.Option("--length", "-l", metavar="N", help="Prompt length in tokens: 64k, 1M, 65536. May be repeated."),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            "-t",
            metavar="NAME",
            help="A task or a group (story, ruler, qa, reason, copy, code, turns, ladder, all). May be repeated.",
            show_default="story, ruler_niah, ruler_vt, ruler_cwe",
            autocompletion=complete_task,
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", "-n", metavar="N", help="Number of samples per task and length.")
    ] = 100,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the samples.")] = 42,
    tokenizer: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="A built-in name, a folder, a tokenizer.json, a Hub id, demo or probe.",
            autocompletion=complete_tokenizer,
        ),
    ] = "qwen2.5",
    chat_template: Annotated[
        str, typer.Option(metavar="FILE", help="auto (the tokenizer's own, if any), none, or a Jinja file.")
    ] = "auto",
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Answer budget in tokens.", show_default="the task's own")
    ] = None,
    length_includes_output: Annotated[
        bool,
        typer.Option("--length-includes-output", help="Subtract the answer budget from the length, as RULER does."),
    ] = False,
    preset: Annotated[
        str,
        typer.Option(metavar="NAME", help="A named bundle of parameters (see list).", autocompletion=complete_preset),
    ] = "paper",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PARAM=VALUE",
            help="Set a parameter of a task (story_multihop.hops=3) or a group (story.locale=pl_PL). May be repeated.",
            show_default=False,
            autocompletion=complete_locale_or_setting,
        ),
    ] = None,
    depth: Annotated[
        str,
        typer.Option(
            metavar="WHERE", help="Depth of the evidence: uniform, a number from 0 to 1, or a range (0.2-0.4)."
        ),
    ] = "uniform",
    question_position: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Position of the question: both (before and after the context), or after (context + question).",
            show_default="both; after with --preset ruler and ladder",
        ),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="Corpus that a task needs: qa_squad=FILE, qa_squad=hub, or a copy on the Hub. May be repeated.",
            show_default=False,
        ),
    ] = None,
    essays: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own text for haystacks of essays.", show_default="generated"),
    ] = None,
    allow_repeats: Annotated[
        bool, typer.Option("--allow-repeats", help="Repeat documents if a corpus is too small.")
    ] = False,
    template: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A TOML file with your own instructions around the context.",
            show_default="the task's words",
        ),
    ] = None,
    control_tokens: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="Control tokens in a corpus, essays or a template (<|im_end|>): encode them as text, or keep them.",
        ),
    ] = "text",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", "-w", metavar="N", help="Number of processes that make samples.", show_default="all cores"
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Ray cluster that makes the samples: ray://HOST:10001, HOST:6379 on one of its nodes, or auto.",
            show_default="this machine",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder to write, or an address for fsspec (s3://bucket/data).",
            show_default="sparse-tasks-<length>",
        ),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Encoder that counts tokens: auto (a faster one where it gives Hugging Face's token ids), or hf.",
        ),
    ] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a data set that was made with other options.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print counts, tokens and the expected time.")
    ] = False,
    format: Annotated[Format, typer.Option(help="How to print the result.")] = Format.human,
) -> None:
    """Write a data set folder that datasets.load_dataset reads.

    The same command resumes a run that was stopped.

    Example: sparse-tasks generate --length 64k --task story --samples 20
    """
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.core.length import label
    from sparse_tasks.core.tokenizers import load_tokenizer
    from sparse_tasks.generators.corpora import find_corpora
    from sparse_tasks.generators.request import GenerateOptions, check_workers, make_request
    from sparse_tasks.generators.run import generate_folder
    from sparse_tasks.generators.sampling import check_lengths
    from sparse_tasks.generators.wording import read_templates

    sources = corpus_sources([*(corpus or []), *([f"essays={essays}"] if essays else [])])
    options = GenerateOptions(
        lengths=length,
        tasks=task or (),
        samples=samples,
        seed=seed,
        tokenizer=(source := _source(tokenizer)),
        chat_template=chat_template,
        max_new_tokens=max_new_tokens,
        length_includes_output=length_includes_output,
        preset=preset,
        settings=dict(map(_setting, set_ or [])),
        depth=depth,
        question_position=question_position,
        corpora=find_corpora(sources),
        allow_repeats=allow_repeats,
        templates=read_templates(template) if template else {},
        control_tokens=control_tokens,
    )
    request = make_request(options)
    n_workers = check_workers(workers)
    if on is not None and workers is not None:
        raise UsageError("workers", workers, "is for this machine; leave it out with --on, which uses all cores")
    folder = output or "sparse-tasks-" + "-".join(label(tokens) for tokens in request.lengths)
    for notice in request.notices:
        warn(notice)
    loaded = load_tokenizer(source, chat_template, keeps_control=request.keeps_control)
    # Once, if tasks share a text.
    for notice in dict.fromkeys(notice for chosen in request.tasks for notice in chosen.notices(loaded)):
        warn(notice)
    if dry_run:
        check_lengths(request, loaded)
        if on is not None:
            from sparse_tasks.core.cluster import connected
            from sparse_tasks.generators.spread import PACKAGES

            with connected(on, PACKAGES) as cluster:
                n_workers = cluster.cpus
        _print_plan(request, loaded, folder, n_workers, encoder, format)
        return
    began = time.monotonic()
    with Progress("generating") as bar:
        manifest = generate_folder(
            request, loaded, folder, n_workers, overwrite, bar.started, bar.made, encoder, warn, on
        )
    _print_result(manifest, folder, time.monotonic() - began, bar.tokens, format)


def _source(tokenizer: str) -> str:
    """Where a tokenizer is; those of ``demo``, ``probe`` and ``probe-steps`` are beside the models of these names."""
    if tokenizer not in ("demo", "probe", "probe-steps"):
        return tokenizer
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.evaluators.models import find_model

    try:
        return find_model(tokenizer).tokenizer
    except UsageError as error:
        raise UsageError("tokenizer", tokenizer, error.remedy) from error


def _setting(text: str) -> tuple[str, str]:
    from sparse_tasks.core.errors import UsageError

    path, equals, value = text.partition("=")
    if not equals:
        raise UsageError("set", text, "sets nothing; write TASK.PARAMETER=VALUE, as in story_multihop.hops=3")
    return path, value


def corpus_sources(texts: Iterable[str]) -> dict[str, str]:
    """Parse ``NAME=SOURCE`` into sources of corpora by name."""
    from sparse_tasks.core.errors import UsageError

    sources: dict[str, str] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if not equals or not source:
            raise UsageError("corpus", text, "names no file; write NAME=FILE, as in qa_squad=dev-v2.0.json")
        if name in sources:
            raise UsageError("corpus", text, f"is a second source of {name}; name one, or concatenate the files")
        sources[name] = source
    return sources


class Progress(Bar):
    """The progress of generating."""

    def started(self, missing: list[Shard]) -> None:
        """Show the samples to be made; the bar counts their tokens."""
        samples = sum(shard.last - shard.first for shard in missing)
        work = sum((shard.last - shard.first) * shard.length for shard in missing)
        self.stage("generating", samples, work)

    def made(self, shard: Shard, samples: int, tokens: int) -> None:
        """Show more samples of a shard."""
        now = f"{shard.task.name} {shard.length:,}"
        self.advance(samples, work=samples * shard.length, tokens=tokens, description=now)


def _print_plan(
    request: Request, tokenizer: PromptTokenizer, folder: str, workers: int, encoder: str, format: Format
) -> None:
    from sparse_tasks.generators.encoding import choose
    from sparse_tasks.generators.estimate import estimate

    with Bar("measuring"):
        expected = estimate(request, tokenizer, workers, choose(tokenizer, request.tokens, encoder, warn))
    rows: list[dict[str, Any]] = [
        {
            "task": task.name,
            "length": length,
            "samples": request.samples,
            "tokens": request.samples * request.target(task, length),
            "seconds": round(expected.configs[task.name, length], 1),
        }
        for length in request.lengths
        for task in request.tasks
    ]
    total: dict[str, Any] = {name: sum(row[name] for row in rows) for name in ("samples", "tokens")}
    total |= {name: round(getattr(expected, name), 1) for name in ("seconds", "low", "high")}
    if format is Format.json:
        print_json({"output": folder, "workers": workers, "configs": rows, "total": total})
        return
    _print_table(rows, total, f"{folder} (not written)", last="expected time")
    busy = f", if other programs keep using {1 - expected.free:.0%} of the cores" if expected.free < 1 else ""
    print(
        f"With {workers} worker{'s' * (workers != 1)} about {duration(expected.seconds)}: "
        f"{duration(expected.low)} to {duration(expected.high)}{busy}."
    )


def _print_result(manifest: Manifest, folder: str, seconds: float, made: int, format: Format) -> None:
    from sparse_tasks.core.length import label

    rows: list[dict[str, Any]] = []
    for length in manifest.request.lengths:
        for task in manifest.request.tasks:
            files = manifest.files_of(length, task).values()
            sums = {name: sum(getattr(file, name) for file in files) for name in ("rows", "tokens", "bytes")}
            rows.append({"task": task, "length": length, "samples": sums["rows"]} | sums)
    total = {name: sum(row[name] for row in rows) for name in ("samples", "tokens", "bytes")}
    first = f"{rows[0]['task']}_{label(rows[0]['length'])}"
    if format is Format.json:
        result = {"output": folder, "fingerprint": manifest.fingerprint, "configs": rows, "total": total}
        print_json(result | {"seconds": round(seconds, 3), "tokens_made": made})
        return
    _print_table(rows, total, folder, last="size")
    if made:
        print(f"Made {made:,} tokens in {duration(seconds)} ({made / seconds:,.0f} tokens/s).")
    else:
        print("Everything was already there.")
    where = f"{folder!r}, {first!r}, split='test'"
    if "://" in folder:
        pattern = f"{folder}/{rows[0]['length']}/{rows[0]['task']}-*.parquet"
        where = f"'parquet', data_files={pattern!r}, split='train'"
    print(f"\nfrom datasets import load_dataset\ndata = load_dataset({where})")


def _print_table(rows: list[dict[str, Any]], total: dict[str, Any], title: str, last: str) -> None:
    # Not as the table's title, which would break a long path.
    print(title)
    table = frameless("task", ("length", "samples", "tokens", last))

    def end(row: dict[str, Any]) -> str:
        return duration(row["seconds"]) if "seconds" in row else size(row["bytes"])

    for row in rows:
        table.add_row(row["task"], f"{row['length']:,}", f"{row['samples']:,}", f"{row['tokens']:,}", end(row))
    table.add_section()
    table.add_row("all", "", f"{total['samples']:,}", f"{total['tokens']:,}", end(total))
    print_table(table)
