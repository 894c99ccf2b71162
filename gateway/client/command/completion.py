"""`completion`: a script for bash, or for zsh with its bashcompinit, made from the grammar of the command itself.

It is a table, so that completing starts no Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from gateway.client.command.output import Output

_BASH = """\
_solmu() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" path="" each
    for each in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case " {commands} " in *" ${{path:+$path/}}$each "*) path="${{path:+$path/}}$each" ;; esac
    done
    case "$path" in
{cases}
    esac
    [[ ${{#COMPREPLY[@]}} -gt 0 ]] || compopt -o default 2> /dev/null
}}
complete -F _solmu solmu
"""

_ZSH = "autoload -Uz bashcompinit && bashcompinit\n"


def add(commands: Any, parser: argparse.ArgumentParser) -> None:
    """Adds the command."""
    command = commands.add_parser("completion", help='shell completion: eval "$(solmu completion bash)"')
    command.add_argument("shell", choices=["bash", "zsh"])

    def local(given: argparse.Namespace, _: Output) -> int:
        print((_ZSH if given.shell == "zsh" else "") + script(parser), end="")
        return 0

    command.set_defaults(local=local)


def script(parser: argparse.ArgumentParser) -> str:
    """The script for a grammar."""
    words = dict(_words(parser, ""))
    cases = "\n".join(
        f"""    "{path}") COMPREPLY=($(compgen -W "{" ".join(found)}" -- "$word")) ;;"""
        for path, found in words.items()
    )
    return _BASH.format(commands=" ".join(filter(None, words)), cases=cases)


def _words(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, list[str]]]:
    """For each command, as a path such as "clients/list": the words that may follow it."""
    found: list[str] = []
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            found += action.choices
            for name, inner in action.choices.items():
                yield from _words(inner, f"{path}/{name}".lstrip("/"))
        else:
            found += action.option_strings or action.choices or ()
    yield path, found
