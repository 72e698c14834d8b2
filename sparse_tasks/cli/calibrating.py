"""``sparse-tasks attention calibrate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sparse_tasks.cli.completion import complete_method
from sparse_tasks.cli.output import Format, print_json
from sparse_tasks.cli.running import FormatOption, Lengths, LocalModel, RunBar, Tasks, attentions, engine_arguments


def calibrate(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="A calibrated method.", autocompletion=complete_method)
    ],
    model: LocalModel,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A .safetensors file.")],
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="DATA", help="Data set: a folder, or ORG/NAME on the Hub.")
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="In place of a data set, what its authors published for the model (duo_attention: a .tsv of gates).",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", "-n", metavar="N", help="Samples of each task at each length, from the first.")
    ] = 2,
    task: Tasks = None,
    length: Lengths = None,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(
            "--engine-arg", metavar="KEY=VALUE", help="device, dtype or impl, as for the engine transformers."
        ),
    ] = None,
    format: FormatOption = Format.human,
) -> None:
    """Measure a model for a method that needs it, on the prompts of a data set, in transformers.

    Or take what the method's authors published for it (--from).

    The file is for this model alone, and for the version of the method; others are refused.

    Example: sparse-tasks attention calibrate triattention -m probe -d sparse-tasks-1k -o probe.safetensors
    """
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.evaluators.calibrating import calibrate as measure
    from sparse_tasks.evaluators.calibrating import take_published
    from sparse_tasks.evaluators.dataset import open_dataset
    from sparse_tasks.evaluators.predict import RunRequest

    if output.suffix != ".safetensors":
        raise UsageError("output", str(output), "does not end in .safetensors, as a calibration has to")
    attention = attentions(method, None, [])[0]
    if (data is None) == (from_ is None):
        raise UsageError("data", data, "is needed, or --from instead, but not both")
    if from_ is not None:
        calibration = take_published(attention, model, from_)
    elif data is not None:
        dataset = open_dataset(data)
        request = RunRequest(
            dataset=dataset,
            selection=dataset.select(task or [], length or [], samples),
            model=model,
            engine="transformers",
            engine_arguments=engine_arguments(engine_arg or []),
            command_line=sys.argv[1:],
            attention=attention,
        )
        with RunBar() as bar:
            calibration = measure(request, bar)
    calibration.save(output)
    if format is Format.json:
        described = {name: getattr(calibration, name) for name in ("method", "version", "model", "source")}
        print_json({**described, "file": str(output)})
        return
    name = calibration.method
    print(f"{name}, version {calibration.version}, of the model {calibration.model[:12]}: {calibration.source}")
    print(f"use it with --set {name}.calibration={output}")
