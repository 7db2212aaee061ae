"""The command line: one verb, one config, one result. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import saft
from saft.errors import UserError, did_you_mean

__all__ = ["main"]


class Verb(NamedTuple):
    """A verb, its line in `saft --help`, and the dataclass its config file holds (module:name)."""

    summary: str
    config: str


VERBS = {
    "run": Verb("train every task and arm, merge, evaluate, measure, report", "saft.run:RunConfig"),
    "train": Verb("fine-tune on one task -> one checkpoint folder", "saft.train:TrainConfig"),
    "merge": Verb("checkpoints -> one checkpoint folder", "saft.merge:MergeConfig"),
    "evaluate": Verb("any checkpoint folder on any tasks", "saft.evaluate:EvaluateConfig"),
    "measure": Verb("interference and sharpness of a set of checkpoints", "saft.measure:MeasureConfig"),
    "methods": Verb("what can be merged how: parameters, defaults, formula, source", ""),
}
FLAGS = ("--help", "--version", "--check", "--overwrite")


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints look like every other message of saft."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def main(words: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code: 0 done, 2 the user's mistake, 130 interrupted."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        if words and not words[0].startswith("-") and words[0] not in VERBS:
            raise UserError(f"unknown verb '{words[0]}'{did_you_mean(words[0], VERBS)}")
        words, overrides = _separated(words)
        arguments = _parser().parse_args(words)
        verbs: dict[str, Callable[[argparse.Namespace, list[str]], None]] = {
            "run": _run,
            "train": _train,
            "merge": _merge,
            "evaluate": _evaluate,
            "measure": _measure,
            "methods": _methods,
        }
        if arguments.verb is None:
            _parser().print_help()
        elif arguments.help:
            _print_help(arguments.verb)
        else:
            verbs[arguments.verb](arguments, overrides)
        sys.stdout.flush()
    except UserError as error:
        print("\n".join(f"saft: {problem}" for problem in error.problems), file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # what reads our words, such as `head`, has had enough of them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"saft: {error.filename}: {error.strerror}", file=sys.stderr)
        return UserError.exit_code
    except KeyboardInterrupt:
        resumes = words[:1] in (["run"], ["train"])
        after = "the same command goes on where it stopped" if resumes else "nothing was written"
        print(f"saft: interrupted; {after}", file=sys.stderr)
        return 130
    return 0


def _separated(words: list[str]) -> tuple[list[str], list[str]]:
    """Separate the verb, its files and flags from `--dotted.name=value`, which argparse takes for a file if
    the value holds a space. Flags come last, since argparse takes no file after one."""
    kept: list[str] = []
    flags: list[str] = []
    overrides: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if not word.startswith("--") or word in FLAGS:
            (flags if word in FLAGS else kept).append(word)
            continue
        name, equals, _ = word.partition("=")
        if name in FLAGS:
            raise UserError(f"command line: {name} takes no value; write {name} alone")
        overrides.append(word)
        if equals:
            continue
        value = next(remaining, None)
        if value is None or value.startswith("--"):
            near = did_you_mean(word, FLAGS)
            raise UserError(f"command line: {word} needs a value; write {word}=value, or a flag" + near)
        overrides.append(value)
    return kept + flags, overrides


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="saft",
        description="Fine-tune models that will be merged, merge them, measure how much the tasks interfere.",
        epilog="Any config value can be given as --dotted.name=value; `saft VERB --help` lists them.",
    )
    parser.add_argument("--version", action="version", version=f"saft {saft.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    for name, verb in VERBS.items():
        sub = verbs.add_parser(
            name, help=verb.summary, description=verb.summary, add_help=False, allow_abbrev=False
        )
        sub.add_argument("-h", "--help", action="store_true", help="show every config value")
        if name == "methods":
            sub.add_argument("name", nargs="?", metavar="NAME", help="one method, in full")
            continue
        sub.add_argument("config", nargs="?", metavar="CONFIG", help="a YAML file")
        if name == "merge":
            sub.add_argument("out", nargs="?", metavar="OUT", help="the folder to write")
            sub.add_argument("--check", action="store_true", help="check everything, write nothing")
        if name in ("train", "merge"):
            sub.add_argument("--overwrite", action="store_true", help="replace what is in the target folder")
    return parser


def _config(arguments: argparse.Namespace, overrides: list[str]) -> Any:
    from saft import config

    return config.parse(_config_class(arguments.verb), *_mapping(arguments, overrides))


def _mapping(arguments: argparse.Namespace, overrides: list[str]) -> tuple[dict[str, Any], str]:
    """Return what the file and the command line say, and what the file is called in messages."""
    from saft import config

    if arguments.config is None and not overrides:
        raise UserError(f"{arguments.verb}: CONFIG is missing; see `saft {arguments.verb} --help`")
    # The file is read before the verb is imported: a mistyped name or key is answered at once.
    mapping = config.overridden(config.read(arguments.config), overrides)
    return mapping, arguments.config or "command line"


def _config_class(verb: str) -> type[Any]:
    module, name = VERBS[verb].config.split(":")
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def _run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    settings = _config(arguments, overrides)
    from saft.run import run

    result = run(settings)
    _print(result.table())
    print(f"report: {result.folder / 'report.html'}")


def _train(arguments: argparse.Namespace, overrides: list[str]) -> None:
    settings = _config(arguments, overrides)
    from saft.train import train

    print(train(settings, overwrite=arguments.overwrite))


def _merge(arguments: argparse.Namespace, overrides: list[str]) -> None:
    if arguments.out is None and not arguments.check:
        pairs = itertools.pairwise(overrides)
        taken = [f"; '{value}' was read as the value of {name}" for name, value in pairs if value[:2] != "--"]
        raise UserError("merge: OUT is missing: the folder to write" + "".join(taken))
    settings = _merge_config(*_mapping(arguments, overrides))
    from saft.merge import merge
    from saft.progress import bar

    with bar(total=1) as shown:
        shown.stage(f"merge by {settings.method}")
        result = merge(settings, arguments.out, arguments.overwrite, arguments.check, shown.at)
    print(result)


def _merge_config(mapping: dict[str, Any], where: str) -> Any:
    """Return the config of a merge file of saft's, or of mergekit's, which has `merge_method:`."""
    from saft import config
    from saft.merging.mergekit import file as mergekit

    if not mergekit.is_mergekit(mapping):
        return config.parse(_config_class("merge"), mapping, where)
    settings, notes = mergekit.read(mapping, where)
    for note in notes:
        print(note, file=sys.stderr)
    return settings


def _evaluate(arguments: argparse.Namespace, overrides: list[str]) -> None:
    settings = _config(arguments, overrides)
    from saft.evaluate import evaluate

    _print(evaluate(settings).table())


def _measure(arguments: argparse.Namespace, overrides: list[str]) -> None:
    settings = _config(arguments, overrides)
    from saft.measure import measure

    _print(measure(settings).table())


def _methods(arguments: argparse.Namespace, overrides: list[str]) -> None:
    if overrides:
        raise UserError(f"methods: '{overrides[0]}' is not understood; usage: saft methods [NAME]")
    from saft.merging.methods import describe

    _print(describe(arguments.name))


def _print_help(verb: str) -> None:
    if verb == "methods":
        print("usage: saft methods [NAME]\n\n" + VERBS[verb].summary)
        return
    from saft import config

    words = "CONFIG OUT [--check] [--overwrite]" if verb == "merge" else "CONFIG"
    print(f"usage: saft {verb} {words} [--dotted.name=value ...]\n\n{VERBS[verb].summary}\n")
    width = min(shutil.get_terminal_size().columns, 110)
    for key in config.describe(_config_class(verb)):
        print(f"{key.name}: {key.default}  ({key.type})")
        print(textwrap.fill(key.documentation, width, initial_indent="    ", subsequent_indent="    "))


def _print(renderable: Any) -> None:
    from rich.console import Console

    Console().print(renderable)
