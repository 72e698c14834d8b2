"""The report as one self-contained HTML file: no scripts, and no external fonts or pictures."""

from __future__ import annotations

from importlib.resources import files
from itertools import count
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from sparse_tasks import __version__
from sparse_tasks.evaluators.report import wording
from sparse_tasks.evaluators.report.conclusions import certified, iso_cost, lengths_and_laws
from sparse_tasks.evaluators.report.context import Context
from sparse_tasks.evaluators.report.evidence import against_depth, against_distance
from sparse_tasks.evaluators.report.facts import settings, shares
from sparse_tasks.evaluators.report.palette import SHADES, readable_on, shade_colour
from sparse_tasks.evaluators.report.scores import against_sparsity, by_task
from sparse_tasks.evaluators.report.steps import against_steps
from sparse_tasks.evaluators.report.summary import summary
from sparse_tasks.evaluators.report.turns import against_turns
from sparse_tasks.evaluators.report.worst import worst

if TYPE_CHECKING:
    from sparse_tasks.evaluators.analyses.analysis import Analysis


def make_report(analysis: Analysis, data: str | None = None, title: str | None = None) -> bytes:
    """The page, as UTF-8; the same runs give the same bytes.

    ``data`` is where the data set is now, for the prompts of the worst samples; None where the runs found it.

    Raises:
        UsageError: ``data`` is not a data set, or no run was made on it.
        DataError: A file of a run or of the data set cannot be read.
    """
    context = Context(analysis)
    sections = [summary(context), against_sparsity(context)]
    if not analysis.runs.able.empty:
        sections += [by_task(context), iso_cost(context), certified(context)]
        sections += [against_depth(context), against_distance(context), against_steps(context), against_turns(context)]
    sections.append(shares(context))
    if not analysis.runs.able.empty:
        sections += [lengths_and_laws(context), worst(context, data)]
    sections.append(settings(context))
    models = list(dict.fromkeys(run.model for run in analysis.runs.runs))
    named = "What sparse attention costs" if context.methods else "Scores"
    if len(models) == 1:
        named += f"{'' if context.methods else ' of'} {wording.name(models[0])}"
    shades = [(step, shade_colour(step)) for step in range(-SHADES, SHADES + 1)]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup  # only for output of plots
    page = environment.get_template("report.html.j2").render(
        title=wording.name(title) if title else named,
        sections=[section for section in sections if section.blocks],  # empty sections do not apply to these runs
        shades=[(step, colour, readable_on(colour)) for step, colour in shades],
        next_id=count(1).__next__,
        scrolls=Markup((files("sparse_tasks.evaluators") / "scrolls.css").read_text(encoding="utf-8")),  # noqa: S704
        version=__version__,
    )
    return page.encode("utf-8", errors="replace")
