"""`completion`: a script for bash or zsh, made from the grammar of the command itself.

It is a table, so that completing starts no Python. Table and look-up are what
both shells understand alike; each has a function of its own that asks them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from gateway.client.command.output import Output

_WORDS = """\
_solmu_words() {{
    local at="" last="" each
    for each in "$@"; do
        case " {commands} " in *" ${{at:+$at/}}$each "*) at="${{at:+$at/}}$each" ;; esac
        last="$each"
    done
    case "$at $last" in
    {values}) return ;;
    esac
    case "$at" in
{cases}
    esac
}}
"""

_SHELLS = {
    "bash": """\
_solmu() {
    local word="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=($(compgen -W "$(_solmu_words "${COMP_WORDS[@]:1:COMP_CWORD-1}")" -- "$word"))
    [[ ${#COMPREPLY[@]} -gt 0 ]] || compopt -o default 2> /dev/null
}
complete -F _solmu solmu
""",
    "zsh": """\
_solmu() {
    compadd -- $(_solmu_words "${words[@]:1:$((CURRENT - 2))}") || _files
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _solmu solmu
""",
}
"""Where no word fits, both complete the names of files."""


def add(commands: Any, parser: argparse.ArgumentParser) -> None:
    """Adds the command."""
    command = commands.add_parser("completion", help='shell completion: eval "$(solmu completion bash)"')
    command.add_argument("shell", choices=sorted(_SHELLS))

    def local(given: argparse.Namespace, _: Output) -> int:
        print(script(parser, given.shell), end="")
        return 0

    command.set_defaults(local=local)


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a grammar."""
    words = dict(_words(parser, ""))
    cases = "\n".join(f"""    "{path}") echo "{" ".join(found)}" ;;""" for path, found in words.items())
    values = "|".join(f'"{option}"' for option in _values(parser, ""))
    return _WORDS.format(commands=" ".join(filter(None, words)), values=values, cases=cases) + _SHELLS[shell]


def _words(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, list[str]]]:
    """For each command, as a path such as "clients/list": the words that may follow it."""
    found: list[str] = []
    for name, inner in _subcommands(parser):
        found.append(name)
        yield from _words(inner, f"{path}/{name}".lstrip("/"))
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        if not isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            found += action.option_strings or action.choices or ()
    yield path, found


def _values(parser: argparse.ArgumentParser, path: str) -> Iterator[str]:
    """Each option that takes a value, after its command: "messages/send --attach"."""
    for action in parser._actions:  # noqa: SLF001
        if action.nargs != 0:
            yield from (f"{path} {option}" for option in action.option_strings)
    for name, inner in _subcommands(parser):
        yield from _values(inner, f"{path}/{name}".lstrip("/"))


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            yield from action.choices.items()
