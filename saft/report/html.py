"""The results as one self-contained HTML page: nothing fetched, light and dark, on paper and on phones."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saft.interference.culprit import HOW_RIGHT
from saft.report.arm_summary import ArmSummary
from saft.report.chosen_arms import chosen_arms, tried, worth_in_words
from saft.report.drawing import colours, shade_of, sign_of
from saft.report.expected import expected_figures
from saft.report.grid_ends import ADD_A_GRID, grid_ends
from saft.report.headline import Headline, headlines
from saft.report.measured import heading, with_spread, without_errors
from saft.report.merge_verdict import SHOWN_BELOW, merge_verdict
from saft.report.over_seeds import OverSeeds
from saft.report.plain_arms import plain_arms
from saft.report.results import ArmFacts, Results
from saft.report.row_names import parts_of
from saft.report.searched import how_searched, searches
from saft.report.side_by_side import own_name
from saft.report.summary import Summary, summarize
from saft.report.verdict import differences_of, in_words, interval, points
from saft.report.weighted import weighted_sentences
from saft.tasks.metric import Metric
from saft.written import as_count, as_number

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["page"]

SHORT = 12  # letters of a name that is not broken: a table has room for it


def page(results: Results) -> str:
    """Return the report as HTML: question, answer and picture; verdict, protocol, tables, curves, measures.

    The same results give the same text: it holds no date, no path and no random identifier.
    """
    summary = summarize(results)
    colour = colours(results.arms)
    answers = headlines(results, summary)
    return (
        _environment()
        .get_template("page.html")
        .render(
            results=results,
            protocol=results.protocol,
            summary=summary,
            expected=expected_figures(results),
            colour=colour,
            question=_question(results),
            headlines=answers,
            answers=_answers(answers, colour),
            figures=_figures(results, summary, answers, colour),
            held_out_figures=_held_out_figures(summary, colour),
            how_searched=how_searched(results),
            searched={size: searches(results, size) for size in summary.train_sizes},
            patchy={size: _is_patchy(summary.of_size(size)) for size in summary.train_sizes},
            grid_ends={size: grid_ends(results, size) for size in summary.train_sizes},
            add_a_grid=ADD_A_GRID,
            chosen={size: chosen_arms(results, size) for size in summary.train_sizes},
            tried={size: tried(results, size) for size in summary.train_sizes},
            trained=_trained(results),
            worth=next((worth_in_words(search) for search in results.arm_searches), ""),
            training=_training(results, summary, colour),
            how_right=HOW_RIGHT,
            config=json.dumps(results.config, indent=2, ensure_ascii=False),
            shown=_shown(results, summary),
            measured_figures=_measured_figures(results, summary, colour),
            weighted={size: weighted_sentences(results, size) for size in summary.train_sizes},
        )
        + "\n"
    )


@functools.cache
def _environment() -> Environment:
    """Return what the page's templates are read by; they are compiled once in a process."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("saft.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=_score,
        percent=lambda values: as_number(100 * values.mean, 1),
        measured=with_spread,
        heading=heading,
        points=points,
        interval=interval,
        differences_of=differences_of,
        in_words=in_words,
        sign=sign_of,
        shade=shade_of,
        words=lambda name: str(name).replace("_", " "),
        known=lambda value: "–" if value is None else value,
        coefficients=_coefficients,
        held_out_of=lambda method, row, metric: row.held_out[metric].merges.get(method),
        steps=_steps,
        count=as_count,
        breakable=_breakable,
        count_of=lambda items, noun: f"{len(items)} {noun}{'' if len(items) == 1 else 's'}",
        gigabytes=lambda values: "–" if values is None else values.written(1e-9, 2),
        seconds=lambda values: "–" if values is None else values.written(1, 1 if values.mean < 100 else 0),
    )
    return environment


def _breakable(name: str) -> Any:
    """Return a name that a browser may break behind what parts its words, and nowhere where it is short."""
    from markupsafe import Markup, escape

    parts = parts_of(str(name))
    if len(str(name)) <= SHORT:
        return Markup('<span class="short">{}</span>').format(name) if len(parts) > 1 else escape(name)
    return Markup("<wbr>").join(map(escape, parts)).replace(Markup(" <wbr>"), Markup(" "))


def _question(results: Results) -> str:
    """Return what the experiment asks: of its arms, since these are what it compares."""
    plain = plain_arms(results.arms)
    others = [facts for arm, facts in results.arms.items() if arm not in plain and not facts.is_given]
    if not others:
        return "Which fine-tuning merges best?"
    if all(arm.perturbation for arm in others):
        return "Does sharpness-aware fine-tuning merge better?"
    return "Does fine-tuning for the merge make it better?"


def _trained(results: Results) -> list[tuple[str, list[str], ArmFacts]]:
    """Return each arm with how it trains: at all train sizes, or at each where another trial was chosen."""
    rows = []
    for arm in results.arms:
        sizes_of: list[tuple[list[str], ArmFacts]] = []
        for size in results.protocol.train_sizes:
            facts = results.facts(size, arm)
            same = next((sizes for sizes, others in sizes_of if others == facts), None)
            sizes_of.append(([size], facts)) if same is None else same.append(size)
        rows += [(arm, sizes, facts) for sizes, facts in sizes_of]
    return rows


def _answers(answers: list[Headline], colour: Mapping[str, str]) -> list[Any]:
    from markupsafe import Markup

    from saft.report.figures import headline_figure

    return [
        Markup(headline_figure(answer, colour, f"answer{i}", answers)) for i, answer in enumerate(answers)
    ]


def _figures(
    results: Results, summary: Summary, answers: list[Headline], colour: Mapping[str, str]
) -> dict[tuple[str, Metric], dict[str, Any]]:
    """Return the SVG elements: (train size, metric) -> name of the figure -> element."""
    from markupsafe import Markup

    from saft.report.expert_figures import lost_figure, retained_figure
    from saft.report.figures import curve_figure, score_figure, task_figure

    figures = {}
    for i, answer in enumerate(answers):
        size, metric = answer.train_size, answer.metric
        of = (summary, size, metric, colour)
        rows, tasks = summary.of_size(size), summary.tasks_of[metric]
        figures[size, metric] = {
            "scores": Markup(score_figure(*of, f"scores{i}")),
            "tasks": Markup(task_figure(answer, colour, f"tasks{i}")),
            "curves": Markup(curve_figure(*of, f"curves{i}")),
            "retained": Markup(retained_figure(rows, metric, tasks, colour, f"retained{i}")),
            "lost": Markup(lost_figure(rows, metric, tasks, results.quantities, colour, f"lost{i}")),
        }
    return figures


def _held_out_figures(
    summary: Summary, colour: Mapping[str, str]
) -> dict[tuple[str, Metric], dict[str, Any]]:
    """Return (train size, metric of tasks held out) -> its curves, and its trade-offs by trained metric."""
    from markupsafe import Markup

    from saft.report.held_out_figures import held_out_curves, trade_off_figure

    figures = {}
    each = [(size, metric) for size in summary.train_sizes for metric in summary.held_out_of]
    for i, (size, metric) in enumerate(each):
        figures[size, metric] = {
            "curves": Markup(held_out_curves(summary, size, metric, colour, f"held{i}")),
            "trade_offs": {
                of: Markup(trade_off_figure(summary, size, metric, of, colour, f"tradeoff{i}-{k}"))
                for k, of in enumerate(summary.metrics)
            },
        }
    return figures


def _score(values: OverSeeds | float | None, metric: Metric) -> str:
    """Return a raw value as its metric prints it, with its spread; a dash where there is none."""
    if values is None:
        return "–"
    return (
        values.written(metric.scale, metric.digits)
        if isinstance(values, OverSeeds)
        else metric.format(values)
    )


def _is_patchy(rows: Sequence[ArmSummary]) -> bool:
    """Return whether a coefficient has scores of some seeds of an arm only, as where a search draws them."""
    merges = (merge for row in rows for scores in row.by_metric.values() for merge in scores.merges.values())
    return any(of.n < len(merge.shared_coefficients) for merge in merges for of in merge.curve.values())


def _coefficients(by_seed: Mapping[int, float]) -> str:
    """Return the coefficient, or one per seed where they differ."""
    values = [f"{value:g}" for value in by_seed.values()]
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def _steps(row: ArmSummary) -> str:
    """Return the steps that were taken: one number, or the range over tasks and seeds; "given" for none."""
    taken = sorted({steps for of_task in row.steps.values() for steps in of_task})
    if not taken:
        return "given"
    return f"{taken[0]} steps" if len(taken) == 1 else f"{taken[0]} to {taken[-1]} steps"


def _training(results: Results, summary: Summary, colour: Mapping[str, str]) -> dict[str, Any]:
    """Return train size -> SVG element of the training losses."""
    from markupsafe import Markup

    from saft.report.expert_figures import training_figure

    return {
        size: Markup(training_figure(results, size, colour, f"training{i}"))
        for i, size in enumerate(summary.train_sizes)
    }


def _measured_figures(
    results: Results, summary: Summary, colour: Mapping[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """Return train size -> heading, SVG element and caption of everything that was measured, and the verdict
    below the last of the matrices that it rests on.
    """
    from markupsafe import Markup

    from saft.report.measured_figures import measured_figures

    shown: dict[str, list[dict[str, Any]]] = {}
    for i, size in enumerate(summary.train_sizes):
        rows = summary.of_size(size)
        drawn = measured_figures(rows, results.quantities, summary.tasks, colour, f"measured{i}")
        last = max(
            (
                n
                for n, figure in enumerate(drawn)
                if own_name(figure.quantity, results.quantities) in SHOWN_BELOW
            ),
            default=None,
        )
        shown[size] = [
            {
                "heading": figure.heading,
                "svg": Markup(figure.svg),
                "caption": figure.caption,
                "verdict": merge_verdict(results, size) if n == last else [],
            }
            for n, figure in enumerate(drawn)
        ]
    return shown


def _shown(results: Results, summary: Summary) -> dict[str, list[str]]:
    """Return "mean" -> quantities of which an arm has a mean, "task" -> those that each task has."""
    rows, quantities = summary.rows.values(), without_errors(results.quantities)
    return {
        "mean": [n for n in quantities if any(row.measured[n].mean is not None for row in rows)],
        "task": [
            name
            for name, quantity in quantities.items()
            if quantity.per == "task" and any(row.measured[name].numbers for row in rows)
        ],
    }
