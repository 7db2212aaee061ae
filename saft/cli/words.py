"""The words of a command line: a verb, its files and flags, and `--dotted.name=value`."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import saft
from saft.cli.verbs import FLAGS, VERBS, Verb, imported
from saft.errors import UserError, did_you_mean
from saft.stand_ins import stand_ins

if TYPE_CHECKING:
    from saft.config import Depth

__all__ = ["Words", "parser", "settings", "understood"]

COMMAND_LINE = "command line"
"""The place of what no file holds."""


@dataclass(frozen=True)
class Words:
    """A command line, understood.

    Args:
        verb: its name; None where there is none.
        help: whether only help is asked for.
        file: the config file, if one is given.
        others: what stands beside it: the target folder, a name, folders.
        flags: keyword of the verb's function -> whether its flag is given.
        overrides: `--dotted.name=value`, as they stand.
    """

    verb: str | None
    help: bool
    file: str | None
    others: list[str]
    flags: dict[str, bool]
    overrides: list[str]

    @property
    def only_lists(self) -> bool:
        """Whether the verb says what there is in saft; code of the user's own, `module:Name`, may compute."""
        verb = VERBS.get(self.verb or "")
        return verb is not None and verb.lists and not any(":" in word for word in self.others)

    def call(self) -> Any:
        """Call the verb's function, and return its result.

        Raises:
            UserError: a word is missing or wrong, or what the verb itself refuses.
        """
        assert self.verb is not None
        verb = VERBS[self.verb]
        if not verb.config:
            options = self._options(verb)
            if "..." in verb.words and not self.others:
                raise UserError(
                    f"{self.verb}: {verb.words.strip('.')} is missing; usage: saft {self.verb} {verb.usage}"
                )
            words = [self.others] if "..." in verb.words else self.others
            return imported(verb.function)(*words, **options)
        if self.file is None and not self.overrides:
            raise UserError(f"{self.verb}: CONFIG is missing; see `saft {self.verb} --help`")
        target = self._target(verb)
        mapping, where = self._mapping(verb)
        with stand_ins():  # what is wrong there is told at once
            self._refuse_another_verbs(verb, mapping, where)
            settings(verb, mapping, where, "options")
        return imported(verb.function)(settings(verb, mapping, where), *target, **self.flags)

    def _options(self, verb: Verb) -> dict[str, str]:
        """Return the options of a verb without a config, each a text."""
        options, remaining = dict[str, str](), iter(self.overrides)
        for word in remaining:
            name, equals, value = word.removeprefix("--").partition("=")
            if name not in verb.options:
                usage = f"usage: saft {self.verb} {verb.usage}"
                near = did_you_mean(word, [f"--{option}" for option in verb.options])
                raise UserError(f"{self.verb}: '{word}' is not understood{near}; {usage}")
            value = value if equals else next(remaining)
            if not value or name in options:
                raise UserError(f"{self.verb}: --{name} {'is given twice' if value else 'needs a value'}")
            options[name] = os.path.expanduser(value)  # no shell does it in `--out=~/runs`
        return options

    def _mapping(self, verb: Verb) -> tuple[dict[str, Any], str]:
        """Return what the config file and the overrides hold, and the place in front of every message."""
        from saft import config

        file, own = self.file, dict[str, Any]()
        if verb.folder and file is not None and Path(file).is_dir():
            if not Path(file, verb.folder).is_file():
                raise UserError(self._not_written(Path(file), verb))
            file, own = str(Path(file, verb.folder)), {"out": file}
        if verb.folders and file is not None and (self.others or Path(file).is_dir()):
            file, own = None, {verb.folders: [file, *self.others]}
        several = "stages" if verb.read else None
        return config.overridden(
            {**config.read(file, several), **own}, self.overrides, verb.named
        ), file or COMMAND_LINE

    def _refuse_another_verbs(self, verb: Verb, mapping: Mapping[str, Any], where: str) -> None:
        """Refuse a config whose keys are those of another verb, which is told instead of every key."""
        of_file = where != COMMAND_LINE  # what is missing of the words of a command is told, not another verb
        if not of_file or _holds_keys_of(mapping, imported(verb.config)):
            return  # so that the configs of the others are not imported
        configs = {name: other.config for name, other in VERBS.items() if other.config}
        meant = [name for name, place in configs.items() if _holds_keys_of(mapping, imported(place))]
        if meant:
            raise UserError(f"{where}: is a config of `saft {meant[0]}`, not of `saft {self.verb}`")

    def _not_written(self, folder: Path, verb: Verb) -> str:
        """Return what is wrong with a folder that stands for a config, and does not hold it."""
        inside = sorted(file.parent for file in folder.glob(f"*/{verb.folder}"))
        around = [x for x in folder.parents if (x / verb.folder).is_file()]
        meant = next(iter([*inside, *around]), None)
        return (
            f"{folder}: holds no {verb.folder}, so `saft {self.verb}` has not written it; name its config "
            f"file, or the folder that is its `out`{f'; did you mean {meant}?' if meant else ''}"
        )

    def _target(self, verb: Verb) -> list[str | None]:
        """Return the target folder of a verb that has one; a check needs none."""
        if not verb.words:
            return []
        if not self.others and not self.flags.get("check_only"):
            pairs = itertools.pairwise(self.overrides)
            taken = "".join(f"; '{b}' was read as the value of {a}" for a, b in pairs if b[:2] != "--")
            if self.file is not None and not Path(self.file).is_file():
                taken += f"; '{self.file}' was read as CONFIG, a file, which comes before it"
            raise UserError(f"{self.verb}: {verb.words} is missing: the folder to write{taken}")
        return [os.path.expanduser(self.others[0]) if self.others else None]  # as in `--out=~/runs`


def _holds_keys_of(mapping: Mapping[str, Any], config_class: type[Any]) -> bool:
    fields = dataclasses.fields(config_class)
    default = dataclasses.MISSING
    needed = {field.name for field in fields if field.default is default is field.default_factory}
    return needed <= mapping.keys() <= {field.name for field in fields}


def settings(verb: Verb, mapping: Mapping[str, Any], where: str, depth: Depth = "all") -> Any:
    """Return the config of a verb.

    Args:
        verb: which.
        mapping: what its config file and the overrides hold.
        where: the file, for messages.
        depth: how far it is checked; see `saft.config.parse`.

    Raises:
        UserError: with everything that is wrong.
    """
    from saft import config

    if verb.read:
        return imported(verb.read)(mapping, where, depth)
    return config.parse(imported(verb.config), mapping, where, depth=depth)


def understood(words: Sequence[str]) -> Words:
    """Return a command line's meaning.

    Raises:
        UserError: there is no such verb or flag, or a word too many.
    """
    if words and not words[0].startswith("-") and words[0] not in VERBS:
        raise UserError(f"unknown verb '{words[0]}'{did_you_mean(words[0], VERBS)}")
    kept, overrides = _separated(words)
    arguments, surplus = parser().parse_known_args(kept)
    name = arguments.verb
    if surplus:
        raise UserError(f"unrecognized arguments: {' '.join(surplus)}; see `saft {name or ''} --help`")
    if name is None:
        return Words(None, True, None, [], {}, [])
    verb = VERBS[name]
    others = getattr(arguments, "others", None) or []
    return Words(
        verb=name,
        help=arguments.help,
        file=getattr(arguments, "config", None),
        others=others if isinstance(others, list) else [others],
        flags={FLAGS[flag][0]: getattr(arguments, flag) for flag in verb.flags},
        overrides=overrides,
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of everything but `--dotted.name=value`."""
    top = _Parser(
        prog="saft",
        description="Fine-tune models that will be merged, merge them, measure how much the tasks interfere.",
        epilog="Any config value can be given as --dotted.name=value; `saft VERB --help` lists them.",
    )
    top.add_argument("--version", action="version", version=f"saft {saft.__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    for name, verb in VERBS.items():
        sub = verbs.add_parser(
            name, help=verb.summary, description=verb.summary, add_help=False, allow_abbrev=False
        )
        sub.add_argument("-h", "--help", action="store_true", help="show every config value")
        if verb.config:
            sub.add_argument("config", nargs="?", metavar="CONFIG", help="a YAML file")
        if verb.words:
            sub.add_argument(
                "others", nargs="*" if "..." in verb.words else "?", metavar=verb.words.strip("[].")
            )
        if verb.folders:
            sub.add_argument("others", nargs="*", metavar="FOLDER")
        for flag in verb.flags:
            sub.add_argument(f"--{flag}", action="store_true", help=FLAGS[flag][1])
    return top


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints look like every other message of saft."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def _separated(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the verb, its files and flags from `--dotted.name=value`, which argparse takes for a file if
    the value holds a space. Flags come last, since argparse takes no file after one."""
    known = ["--help", "--version", *(f"--{flag}" for flag in FLAGS)]
    verb = VERBS.get(words[0]) if words else None
    own = ["--help", *(f"--{flag}" for flag in (verb.flags if verb else ()))]
    kept: list[str] = []
    flags: list[str] = []
    overrides: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if not word.startswith("--") or word in known:
            (flags if word in known else kept).append(word)
            continue
        name, equals, _ = word.partition("=")
        if name in known:
            raise UserError(f"command line: {name} takes no value; write only {name}")
        overrides.append(word)
        if equals:
            continue
        value = next(remaining, None)
        if value is None or value.startswith("--"):
            near = did_you_mean(word, own)
            raise UserError(f"command line: {word} needs a value; write {word}=value, or a flag{near}")
        overrides.append(value)
    return kept + flags, overrides
