"""`saft VERB --help`: the usage, and every key of the config with its default, range and meaning."""

from __future__ import annotations

import shutil
import textwrap

from saft import config
from saft.cli.verbs import FLAGS, OPTIONS, VERBS, imported

__all__ = ["print_help"]

WIDEST = 110


def print_help(name: str) -> None:
    """Print all there is to say of a verb."""
    verb = VERBS[name]
    print(f"usage: saft {name} {verb.usage}\n\n{verb.summary}\n")
    for flag in verb.flags:
        print(f"--{flag}\n    {FLAGS[flag][1]}")
    for option in verb.options:
        print(f"--{option}=VALUE\n    {OPTIONS[option]}")
    if not verb.config:
        return
    for key in config.describe(imported(verb.config)):
        _print_key(key)
    for place, registry in verb.kinds.items():
        from saft.cli.catalogue import kinds

        print(f"\nbelow {place}:")
        for key in kinds(imported(registry), place):
            if key.name == f"{place}.kind":
                print(f"\n{place}.kind: {key.default}\n    {key.documentation}")
            else:
                _print_key(key)


def _print_key(key: config.Key) -> None:
    width = min(shutil.get_terminal_size().columns, WIDEST)
    wrapper = textwrap.TextWrapper(
        width, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
    )
    print(f"{key.name}: {key.default}  ({key.type})")
    print(wrapper.fill(key.documentation))
