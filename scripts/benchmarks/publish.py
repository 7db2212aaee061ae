"""What the benchmarks share: the options of rounds, the Markdown table, and the JSON of every figure."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a benchmark that is done in rounds."""
    parser.add_argument("--seed", type=int, default=0, help="of the order in the rounds")
    parser.add_argument("--json", type=Path, help="where to write every figure")


def add_competitors(
    parser: argparse.ArgumentParser, known: Collection[str], always: str, asked: Collection[str] = ()
) -> None:
    """Add the option that chooses among competitors; `always` says which are there without being asked.

    Those of `asked` are there only if they are asked for.
    """
    parser.add_argument(
        "--competitors",
        type=lambda value: value.split(","),
        default=[name for name in known if name not in asked],
        help=f"comma-separated, beside {always}: " + ", ".join(known),
    )


def check_competitors(
    parser: argparse.ArgumentParser, options: argparse.Namespace, known: Collection[str]
) -> None:
    """End with the parser's error if there is a competitor that nobody knows."""
    if unknown := set(options.competitors) - set(known):
        parser.error(f"unknown competitors: {', '.join(sorted(unknown))}; known: {', '.join(known)}")


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table, which is Markdown when printed: a name, then a column for each heading."""
    table = Table(box=box.MARKDOWN)
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def publish(table: Table, results: Mapping[str, Any], file: Path | None) -> None:
    """Print the table, and write everything that was measured into a JSON file, if one was asked for."""
    wide = Console(width=10**4)
    Console(width=max(160, wide.measure(table).maximum)).print(table)  # nothing in it is cut
    if file is not None:
        file.write_text(json.dumps(results, indent=1) + "\n")


def load_average(results: Mapping[str, Any]) -> str:
    """Return how busy the machine was, in words: `load_average` of the results, before and after."""
    before, after = (
        ", ".join(f"{load:.2f}" for load in results["load_average"][when]) for when in ("before", "after")
    )
    return f"Load average {before} before, {after} after."


def protocol(options: argparse.Namespace) -> dict[str, Any]:
    """Return how it was measured: every option, but for where the figures go."""
    given = {key: value for key, value in vars(options).items() if key != "json"}
    return {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
