"""Cells of the study: data sets, and the sweeps over each, in the order in which they matter."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sparse_tasks.attention.method import METHODS, RepeatMethod
from sparse_tasks.core.length import label, parse_length

SEED = 42
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)  # dense attention is sparsity 0, and runs once
DECODING = 0.98  # one more, for what decodes or evicts
COMPOSITIONS = ("vertical_slash+quest", "block_sparse+quest", "vertical_slash+snapkv", "block_sparse+snapkv")
WINDOWS = ("streaming_llm", "tri_shape", "window_decode", "window_evict")
"""Window methods: those in sinks and a window alone. The last two are controls, which no board ranks."""
WINDOW_TASK = "ruler_niah_single_2"
DEPTHS = ("0.3-0.7", "0.95-1")
"""Where the needle stands for window methods: outside of the window, and inside."""
CONTROLS = "controls"
TASKS = (
    *("story_aggregation", "story_filtering", "story_multihop", "story_retrieval"),
    *("qa_biographies", "ruler_cwe", "ruler_fwe", "ruler_niah"),
    *("ruler_niah_multikey_1", "ruler_niah_multikey_2", "ruler_niah_multikey_3"),
    *("ruler_niah_multiquery", "ruler_niah_multivalue"),
    *("ruler_niah_single_1", "ruler_niah_single_2", "ruler_niah_single_3"),
    "ruler_vt",
)
"""Those without texts of others when the study began; its data sets stay what they are, whatever tasks are added."""


@dataclass(frozen=True)
class Model:
    """A model with the lengths that it is studied at."""

    name: str  # in names of folders
    path: str  # as --model takes it
    lengths: tuple[int, ...]
    preset: str = "paper"
    tasks: tuple[str, ...] = ()  # empty for ``TASKS``
    settings: tuple[str, ...] = ()  # as generate takes them with --set


@dataclass(frozen=True)
class Data:
    """A data set of the study."""

    model: Model
    length: int
    tasks: tuple[str, ...]
    samples: int
    depth: str = "uniform"

    @property
    def name(self) -> str:
        """Name of its folder."""
        depth = "" if self.depth == "uniform" else f"-needle-{self.depth}"
        return f"{self.model.name}-{label(self.length)}{depth}"

    @property
    def prompts(self) -> int:
        return self.samples * len(self.tasks)

    def command(self, tokenizer: str, folder: Path) -> list[str]:
        """Words after ``sparse-tasks`` that make it."""
        words = ["generate", "--length", str(self.length), "--samples", str(self.samples), "--seed", str(SEED)]
        words += [word for task in self.tasks for word in ("--task", task)]
        words += [word for setting in self.model.settings for word in ("--set", setting)]
        words += ["--preset", self.model.preset, "--depth", self.depth, "--tokenizer", tokenizer]
        return [*words, "--output", str(folder)]


@dataclass(frozen=True)
class Sweep:
    """A command of the study: methods at sparsities over a data set, in one live engine."""

    data: Data
    part: str  # name of its submission, which sweeps of the same part share
    methods: tuple[str, ...]
    sparsities: tuple[float, ...]

    @property
    def name(self) -> str:
        return "/".join((self.data.name, self.part, ",".join(self.methods))).rstrip("/")

    @property
    def cells(self) -> list[str]:
        """Labels of its sparse runs, as ``sweep`` names their folders."""
        return [f"{method}-{sparsity:g}" for method in self.methods for sparsity in self.sparsities]

    @property
    def tokens(self) -> int:
        """Tokens of all prompts of its sparse runs."""
        return len(self.cells) * self.data.prompts * self.data.length

    def command(self, data: Path, tasks: Sequence[str], folder: Path, arguments: Sequence[str]) -> list[str]:
        """Words after ``sparse-tasks`` that run it."""
        words = ["evaluate", str(data), "--model", self.data.model.path, "--output", str(folder)]
        if self.methods:
            words += ["--attention", ",".join(self.methods)]
            words += ["--sparsity", ",".join(f"{sparsity:g}" for sparsity in self.sparsities)]
        words += [word for task in tasks for word in ("--task", task)]
        return [*words, *(word for argument in arguments for word in ("--engine-arg", argument))]


@dataclass(frozen=True)
class Options:
    """What a study covers."""

    models: tuple[Model, ...]
    sparsities: tuple[float, ...] = SPARSITIES
    decoding: float | None = DECODING
    samples: int = 50
    window_samples: int = 30
    methods: tuple[str, ...] = ()  # empty for all that are no controls
    compositions: tuple[str, ...] = COMPOSITIONS
    windows: tuple[str, ...] = WINDOWS
    window_sparsities: tuple[float, ...] = (0.5, 0.7, 0.9)
    depths: tuple[str, ...] = DEPTHS
    window_lengths: tuple[int, ...] = field(default=())  # empty for the shortest of the first model
    windows_last: bool = False


def methods_of(part: str, only: Sequence[str] = ()) -> tuple[str, ...]:
    """Methods of a part, ``prefill`` or ``decode`` (which has those that evict, too).

    Without controls, and those that read a prompt twice, which vLLM does not.
    """
    studied = [method for method in METHODS if not method.control and not issubclass(method, RepeatMethod)]
    chosen = [method for method in studied if not only or method.name in only]
    return tuple(method.name for method in chosen if (method.phase == "prefill") == (part == "prefill"))


def data_sets(options: Options) -> list[Data]:
    """The data sets, those that matter most first."""
    made = [
        Data(model, length, model.tasks or TASKS, options.samples)
        for model in options.models
        for length in model.lengths
    ]
    first = options.models[0]
    windows = [
        Data(replace(first, settings=()), length, (WINDOW_TASK,), options.window_samples, depth)
        for length in options.window_lengths or (min(first.lengths),)
        for depth in options.depths
        if options.windows
    ]
    return made + windows


def sweeps(options: Options) -> list[Sweep]:
    """The sweeps: by part, then by data set, so that a study that is cut short has each model and length.

    Windows come first: they are small, and show that what is measured can be measured.
    """
    parts = {
        "decode": (
            methods_of("decode", options.methods),
            (*options.sparsities, *(() if options.decoding is None else (options.decoding,))),
        ),
        "prefill": (methods_of("prefill", options.methods), options.sparsities),
        "composed": (options.compositions, options.sparsities),
    }
    controls = {method.name for method in METHODS if method.control}
    planned = []
    for data in data_sets(options):
        if data.depth != "uniform":
            for part, wanted in (("windows", False), (CONTROLS, True)):
                chosen = tuple(name for name in options.windows if (name in controls) == wanted)
                planned.append(Sweep(data, part, chosen, options.window_sparsities))
    rest = [Sweep(data, part, *parts[part]) for part in parts for data in data_sets(options) if data.depth == "uniform"]
    # One method each, so that they run side by side.
    rest = [replace(sweep, methods=(method,)) for sweep in rest for method in sweep.methods]
    planned = rest + planned if options.windows_last else planned + rest
    return [sweep for sweep in planned if sweep.methods and sweep.sparsities]


def parse_model(text: str) -> Model:
    """A model from ``probe=4k,8k`` or ``/models/qwen=8k,16k,32k``; all but ``probe`` get the preset for small ones."""
    path, equals, lengths = text.rpartition("=")
    if not equals or not path or not lengths:
        raise ValueError(f"{text!r} is no model with lengths; write probe=4k,8k or FOLDER=8k,16k")
    name = "probe" if path == "probe" else "".join(c if c.isalnum() or c in ".-" else "-" for c in Path(path).name)
    sizes = tuple(parse_length(length) for length in lengths.split(","))
    return Model(name.lower(), path, sizes, "paper" if path == "probe" else "small")


def told(planned: Sequence[Sweep], rate: float, start: float, done: Sequence[str] = ()) -> str:
    """The plan as a table, with an estimate: tokens over ``rate`` (tokens a second), and ``start`` seconds a sweep."""
    rows, total = [f"{'sweep':<34}{'runs':>5}{'prompts':>9}{'Mtokens':>9}{'minutes':>9}"], 0.0
    for sweep in planned:
        seconds = 0.0 if sweep.name in done else sweep.tokens / rate + start
        total += seconds
        rows.append(
            f"{sweep.name:<34}{len(sweep.cells):>5}{len(sweep.cells) * sweep.data.prompts:>9,}"
            f"{sweep.tokens / 1e6:>9.1f}{'done' if sweep.name in done else f'{seconds / 60:.1f}':>9}"
        )
    rows.append(f"{'all':<34}{sum(len(sweep.cells) for sweep in planned):>5}{'':>9}"
                f"{sum(sweep.tokens for sweep in planned) / 1e6:>9.1f}{total / 60:>9.1f}")  # fmt: skip
    return "\n".join(rows)


def shown(words: Sequence[str]) -> str:
    """A command as one would type it."""
    return "sparse-tasks " + shlex.join(words)
