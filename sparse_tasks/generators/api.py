"""Generation from Python."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.length import label
from sparse_tasks.core.paths import to_path
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.core.tokenizers.fast import Fastokens
from sparse_tasks.generators.corpora import find_corpora
from sparse_tasks.generators.encoding import by_both, choose, with_fallback
from sparse_tasks.generators.request import GenerateOptions, check_workers, make_request
from sparse_tasks.generators.run import generate_folder, generate_samples
from sparse_tasks.generators.sampling import check_lengths
from sparse_tasks.generators.table import to_table
from sparse_tasks.generators.wording import read_templates

if TYPE_CHECKING:
    from datasets import DatasetDict


def generate(
    length: str | int | Iterable[str | int],
    tasks: str | Sequence[str] = (),
    samples: int = 100,
    *,
    seed: int = 42,
    tokenizer: str = "qwen2.5",
    chat_template: str = "auto",
    max_new_tokens: int | None = None,
    length_includes_output: bool = False,
    preset: str = "paper",
    settings: Mapping[str, object] | None = None,
    depth: str | float = "uniform",
    question_position: str | None = None,
    corpora: Mapping[str, str] | None = None,
    allow_repeats: bool = False,
    template: str | Path | None = None,
    control_tokens: str = "text",
    workers: int | None = 1,
    output: str | Path | None = None,
    overwrite: bool = False,
    encoder: str = "auto",
    on: str | None = None,
) -> DatasetDict:
    """Generate samples: a data set for each task at each length, named as its configuration.

    >>> generate("64k", ["story"], samples=10)["story_retrieval_64k"]  # doctest: +SKIP

    Args:
        length: One length or several: ``64k``, ``1M``, 65536.
        tasks: Name of a task or a group, or several; none means the stories and ``ruler_niah``,
            ``ruler_vt``, ``ruler_cwe``.
        samples: Number of samples per task and length.
        seed: Seed of the samples.
        tokenizer: A built-in name, a folder, a ``tokenizer.json``, or a Hub id.
        chat_template: ``auto`` (the tokenizer's own, if any), ``none``, or a file.
        max_new_tokens: Answer budget in tokens; None takes each task's own.
        length_includes_output: Whether to subtract the answer budget from the length.
        preset: A named bundle of parameters.
        settings: Parameters by ``task.parameter`` or ``group.parameter``.
        depth: ``uniform``, a number from 0 to 1, or a range such as ``0.2-0.4``.
        question_position: ``both`` or ``after``; None for the preset's own: ``after`` for ``ruler`` and ``ladder``,
            else ``both``.
        corpora: Corpora that tasks need, by name: a file, ``hub``, or a copy on the Hub; ``essays`` is a file for
            haystacks.
        allow_repeats: Whether to repeat documents if a corpus is too small for a length.
        template: A TOML file with your own wording (docs/ruler.md).
        control_tokens: ``text`` encodes control tokens in texts as text, ``keep`` keeps them.
        workers: Number of processes that make samples; None for all cores.
        output: Folder to write; None keeps the samples in memory.
        overwrite: Whether to replace a data set in ``output`` that was made with other options.
        encoder: ``auto`` counts with a faster encoder where that is verified; ``hf`` does not.
        on: Address of a Ray cluster that makes the samples; needs ``output``.

    Raises:
        UsageError: An argument is unknown or out of range, a length is too short, or the cluster cannot be used.
        OutputError: The folder cannot be written.
    """
    from datasets import Dataset, DatasetDict, load_dataset

    options = GenerateOptions(
        lengths=[length] if isinstance(length, str | int) else length,
        tasks=[tasks] if isinstance(tasks, str) else tasks,
        samples=samples,
        seed=seed,
        tokenizer=tokenizer,
        chat_template=chat_template,
        max_new_tokens=max_new_tokens,
        length_includes_output=length_includes_output,
        preset=preset,
        settings=settings or {},
        depth=str(depth),
        question_position=question_position,
        corpora=find_corpora(corpora or {}),
        allow_repeats=allow_repeats,
        templates=read_templates(to_path(template)) if template is not None else {},
        control_tokens=control_tokens,
    )
    request = make_request(options)
    loaded = load_tokenizer(tokenizer, chat_template, keeps_control=request.keeps_control)
    configs = [(task, tokens, f"{task.name}_{label(tokens)}") for tokens in request.lengths for task in request.tasks]
    if output is not None:
        if "://" in str(output):
            raise UsageError(
                "output",
                output,
                "is not a local folder, so the data cannot be loaded from it; sparse-tasks generate writes there",
            )
        generate_folder(request, loaded, Path(output), check_workers(workers), overwrite, encoder=encoder, on=on)
        # load_dataset takes a bare name such as "json" for a format.
        folder = str(Path(output).absolute())
        return DatasetDict({name: load_dataset(folder, name, split="test") for _, _, name in configs})
    if on is not None:
        raise UsageError("on", on, "needs output, a folder that all nodes can access")
    check_lengths(request, loaded)
    keys = [(task, tokens, index) for task, tokens, _ in configs for index in range(samples)]
    both = {(task, tokens, index) for task, tokens, _ in configs for index in by_both(0, samples)}

    def make(fast: type[Fastokens] | None) -> DatasetDict:
        with closing(generate_samples(request, loaded, keys, check_workers(workers), fast, both)) as made:
            return DatasetDict({name: Dataset(to_table(islice(made, samples))) for _, _, name in configs})

    return with_fallback(loaded, choose(loaded, request.tokens, encoder, warnings.warn), make, warnings.warn)
