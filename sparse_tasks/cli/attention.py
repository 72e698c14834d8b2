"""``sparse-tasks attention``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparse_tasks.cli import calibrating, inspecting
from sparse_tasks.cli.completion import complete_method
from sparse_tasks.cli.output import Format, frameless, print_json, print_table
from sparse_tasks.cli.running import FormatOption, Set, method_arguments

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.bench import Timing
    from sparse_tasks.attention.method import Method

app = typer.Typer(
    help="List, draw, time, inspect and calibrate sparse attention methods.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_SPARSITY = 0.9
_MISSED = 0.02  # of the density: report a sparsity missed by more
_LENGTH = "4k"
_LENGTHS = {"cuda": ["32k", "128k"], "cpu": ["1k", "2k"]}
_BENCHED = ["block_sparse", "vertical_slash", "quest"]

Sparsity = Annotated[
    float | None,
    typer.Option(metavar="S", help="Target sparsity, in [0, 1).", show_default="0.9 unless --set has a budget"),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of the random queries and keys.")]


@app.command("list")
def listing(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="With parameters.")] = False,
    format: FormatOption = Format.human,
) -> None:
    """List the methods: when each acts, what it selects, how it estimates importance, how it spends its budget."""
    from sparse_tasks.attention.method import METHODS
    from sparse_tasks.core.parameters import parameters

    rows = [
        {
            "name": method.name,
            "summary": method.summary,
            "phase": str(method.phase),
            "unit": method.unit,
            "importance": method.importance,
            "budget": method.budget,
            "cache": method.cache,
            "source": method.source,
            "exact": method.exact,
            "control": method.control,
            "set_by_sparsity": list(method.budgets),
            "parameters": [
                {"name": p.name, "default": p.default, "range": p.range, "help": p.help} for p in parameters(method)
            ],
        }
        for method in METHODS
    ]
    if format is Format.json:
        print_json({"methods": rows})
    else:
        _print_list(rows, verbose)


@app.command("show")
def show(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A method.", autocompletion=complete_method)],
    length: Annotated[
        str | None, typer.Option("--length", "-l", metavar="N", help="Tokens: 4096, 64k.", show_default=_LENGTH)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="A .png, .svg or .pdf.", show_default="METHOD.png"),
    ] = None,
    sparsity: Sparsity = None,
    set_: Set = None,
    qk: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A model's queries and keys, as .npz or .safetensors: q (tokens, query heads, head size) and k.",
            show_default="made ones",
        ),
    ] = None,
    head: Annotated[
        int | None, typer.Option(metavar="N", help="One head of the index.", show_default="up to four")
    ] = None,
    heads: Annotated[int, typer.Option(metavar="N", help="Number of query heads.", min=1)] = 4,
    kv_heads: Annotated[int, typer.Option(metavar="N", help="Number of KV heads.", min=1)] = 2,
    head_size: Annotated[int, typer.Option(metavar="N", help="Head size.")] = 64,
    seed: Seed = 0,
    format: FormatOption = Format.human,
) -> None:
    """Draw what a method selects.

    The queries and keys are made, with the structure of a model's (sinks, verticals, slashes, topics), or given.

    For methods that decode or evict, the rows are the last 64 queries, each a step after the prompt.

    Example: sparse-tasks attention show quest --length 16k --sparsity 0.95
    """
    _need("torch")
    from sparse_tasks.attention.examples import structured
    from sparse_tasks.attention.method import EvictMethod
    from sparse_tasks.attention.picture import Rows, check_path, draw, select
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.core.length import parse_length

    path = check_path(output or Path(f"{method}.png"))
    chosen = _methods([method], sparsity, set_)[0]
    if qk is not None and length is not None:
        raise UsageError("length", length, "contradicts --qk, whose file has a length; leave one of them out")
    if qk is None:
        q, k, _ = structured(parse_length(length or _LENGTH), heads, kv_heads, head_size, seed)
    else:
        q, k = _read_qk(qk)
    drawn = select(chosen, q, k, impl="torch")
    n_q = drawn.kept.shape[1] if isinstance(drawn, Rows) else len(q)
    settings = ", ".join(f"{name} {value}" for name, value in chosen.settings().items() if value is not None)
    title = f"{chosen.name}, {len(k):,} tokens\n{settings}"
    selected, computed = draw(drawn, n_q, len(k), path, title=title, head=head)
    if format is Format.json:
        measured = {"density_selected": selected, "density_computed": computed}
        print_json(
            {"method": chosen.name, "settings": chosen.settings(), "length": len(k), **measured, "file": str(path)}
        )
        return
    print(f"{chosen.name} at {len(k):,} tokens: selected density {selected:.3f}, computed {computed:.3f}")
    met = selected if chosen.exact else computed
    grows = isinstance(chosen, EvictMethod) and not chosen.each_step
    if chosen.sparsity is not None and abs(met - (1 - chosen.sparsity)) > (0 if grows else _MISSED):
        why = "in a prompt this short, whole blocks and keys that are always kept leave less choice"
        if grows:
            why = (
                f"that much of the prompt stays, in whole blocks if any; each of {n_q} steps also sees those before it"
            )
        print(f"note: sparsity {chosen.sparsity:g} means {1 - chosen.sparsity:.3f}; {why}")
    print(path)


@app.command("bench")
def bench(
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD", help="Methods.", show_default=" ".join(_BENCHED), autocompletion=complete_method
        ),
    ] = None,
    length: Annotated[
        list[str] | None,
        typer.Option(
            "--length",
            "-l",
            metavar="N",
            help="Tokens: 4096, 64k. May be repeated.",
            show_default="32k 128k; on a CPU 1k 2k",
        ),
    ] = None,
    sparsity: Sparsity = None,
    set_: Set = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="cuda, or cpu for plain torch.")] = "cuda",
    heads: Annotated[int, typer.Option(metavar="N", help="Query heads.", min=1)] = 32,
    kv_heads: Annotated[int, typer.Option(metavar="N", help="KV heads.", min=1)] = 8,
    head_size: Annotated[int, typer.Option(metavar="N", help="Head size.")] = 128,
    batch: Annotated[int, typer.Option(metavar="N", help="Sequences per decoding step; prefill has one.", min=1)] = 16,
    seed: Seed = 0,
    format: FormatOption = Format.human,
) -> None:
    """Time one layer of sparse attention beside torch's dense attention, in bfloat16, on this machine."""
    _need("torch")
    from sparse_tasks.attention.bench import Shape
    from sparse_tasks.attention.bench import bench as measure
    from sparse_tasks.core.length import parse_length

    chosen = _methods(methods or _BENCHED, sparsity, set_)
    lengths = [parse_length(text) for text in length or _LENGTHS.get(device, [_LENGTH])]
    shape = Shape(heads, kv_heads, head_size, batch, device=device)
    timings = [measure(method, tokens, shape, seed=seed) for method in chosen for tokens in lengths]
    if format is Format.json:
        rows = [vars(timing) | {"speedup": timing.speedup, "bound": timing.bound} for timing in timings]
        print_json({"shape": vars(shape), "timings": rows})
        return
    _print_timings(timings, device, {method.name for method in chosen if method.phase == "evict"})


app.command("inspect")(inspecting.inspect)
app.command("calibrate")(calibrating.calibrate)


def _need(package: str, extra: str = "attention") -> None:
    """Refuse a missing package with the command that installs its extra."""
    from importlib import import_module

    from sparse_tasks.core.errors import UsageError, install

    try:
        import_module(package)
    except ImportError as error:
        raise UsageError("attention", package, f"is not installed; {install(extra)}") from error


def _methods(names: list[str], sparsity: float | None, set_: list[str] | None) -> list[Method]:
    """The methods by name, with their parameters."""
    from sparse_tasks.attention.attention import Attention, share_out
    from sparse_tasks.attention.method import METHODS
    from sparse_tasks.core.errors import UsageError

    methods: list[Method] = []
    for name, arguments in zip(names, share_out(method_arguments(set_ or []), names), strict=True):
        if "+" in name:
            raise UsageError("method", name, "is a composition; name each method by itself here")
        budgets = {"sparsity", *METHODS.get(name).budgets}
        default = None if budgets & {path.rpartition(".")[2] for path in arguments} else _SPARSITY
        target = default if sparsity is None else sparsity
        methods += Attention.parse(name, sparsity=target, arguments=arguments).methods
    return methods


def _read_qk(path: Path) -> tuple[Tensor, Tensor]:
    """Queries and keys from a file, in fp32."""
    import torch

    from sparse_tasks.core.errors import BadFileError, UsageError, first_line

    arrays: Any
    try:
        if path.suffix == ".npz":
            import numpy as np

            with np.load(path, allow_pickle=False) as file:
                arrays = {name: torch.from_numpy(file[name]) for name in ("q", "k") if name in file}
        elif path.suffix == ".safetensors":
            _need("safetensors", "transformers")
            from safetensors.torch import load_file

            arrays = load_file(path)
        else:
            raise UsageError("qk", str(path), "is neither a .npz nor a .safetensors file")
    except UsageError:
        raise
    except Exception as error:  # each reader has its own errors for invalid files
        reason = "it holds no plain arrays" if "pickle" in str(error) else first_line(error)
        raise BadFileError(f"qk: {path} cannot be read: {reason}") from error
    for name in ("q", "k"):
        if name not in arrays:
            raise BadFileError(f"qk: {path} has no array named {name}; it needs q and k")
        if not arrays[name].is_floating_point():
            raise BadFileError(
                f"qk: {name} of {path} holds {arrays[name].dtype}, and has to hold floating-point numbers"
            )
        if not arrays[name].isfinite().all():
            raise BadFileError(f"qk: {name} of {path} holds numbers that are not finite")
    return arrays["q"].float(), arrays["k"].float()


def _print_list(rows: list[dict[str, Any]], verbose: bool) -> None:
    ranked = [row for row in rows if not row["control"]]
    for phase in dict.fromkeys(row["phase"] for row in ranked):
        _print_methods(phase.capitalize(), [row for row in ranked if row["phase"] == phase], ("unit", "budget"))
    controls = "Controls, to compare methods with; boards do not rank them"
    _print_methods(controls, [row for row in rows if row["control"]], ("phase", "unit", "budget"))
    table = frameless("name", ("importance",), numeric=False)
    for row in rows:
        table.add_row(row["name"], row["importance"])
    print_table(table)
    if not verbose:
        print("\n--verbose shows sources and parameters.")
        print("Two methods compose, as in vertical_slash+quest.")
        print("A name without its phase means both: oracle is oracle_prefill+oracle_decode.")
        return
    print()
    table = frameless("name", ("source",), numeric=False)
    for row in rows:
        table.add_row(row["name"], row["source"])
    print_table(table)
    print("\nParameters (--set); --sparsity sets those with *")
    table = frameless("parameter", ("default", "values", "meaning"), numeric=False)
    for row in rows:
        for p in row["parameters"]:
            star = "*" if p["name"] in row["set_by_sparsity"] else ""
            table.add_row(f"{row['name']}.{p['name']}{star}", str(p["default"]), p["range"], p["help"])
    print_table(table)


def _print_methods(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """A table of methods, with the most common fate of the KV cache in its title, and exceptions below."""
    caches = [row["cache"] for row in rows]
    usual = max(caches, key=caches.count)
    print(f"{title}\nKV cache: {usual}")
    for cache in dict.fromkeys(caches):
        if cache != usual:
            print(f"  {cache}: {', '.join(row['name'] for row in rows if row['cache'] == cache)}")
    table = frameless("name", columns, numeric=False)
    for row in rows:
        table.add_row(*(row[key] for key in ("name", *columns)))
    print_table(table)
    print()


def _print_timings(timings: list[Timing], device: str, evicting: set[str]) -> None:
    from sparse_tasks.core.length import label

    table = frameless("method", ("length", "dense ms", "sparse ms", "index ms", "density", "speedup", "bound"))

    def short(milliseconds: float) -> str:
        return f"{milliseconds:.{0 if milliseconds >= 100 else 1 if milliseconds >= 10 else 3}f}"

    for t in timings:
        numbers = [
            short(t.dense),
            short(t.sparse),
            short(t.index),
            f"{t.computed:.3f}",
            f"{t.speedup:.2f}",
            f"{t.bound:.1f}",
        ]
        table.add_row(t.method + (" *" if t.method in evicting else ""), label(t.length), *numbers)
    if device == "cpu":
        print("Plain torch on the CPU: this shows that everything works, not how fast the kernels are.")
    print_table(table)
    print("dense: torch's scaled_dot_product_attention; sparse: includes the index; bound: 1 / density of what runs.")
    if any(t.method in evicting for t in timings):
        print("*: the index is made once after the prompt, so a step's time does not include it.")
