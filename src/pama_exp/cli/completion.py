"""`pama-exp completion bash`: what the shell needs to complete commands, groups, options and keys, without waiting."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

from pama_exp.cli.family import COMMANDS
from pama_exp.cli.help_text import groups
from pama_exp.config.own_options import check_folder
from pama_exp.safety.arguments import Parser, folder

_FLAGS = ("--help", "--version", "--multirun", "--cfg", "--config-dir", "--hydra-help")
# Bash breaks words at =, so that what stands before it is taken off what is offered.
_BASH = """\
# pama-exp: put  source <(pama-exp completion bash)  into ~/.bashrc
_pama_exp() {{
  local typed="${{COMP_LINE:0:COMP_POINT}}"
  typed="${{typed##* }}"
  local words="{words}"
  COMPREPLY=($(compgen -W "$words" -- "$typed"))
  if [[ ${{#COMPREPLY[@]}} -eq 0 ]]; then COMPREPLY=($(compgen -f -- "${{typed#*=}}")); typed=""; fi
  if [[ "$typed" == *=* ]]; then COMPREPLY=("${{COMPREPLY[@]#*=}}"); fi
  [[ "${{COMPREPLY[0]}}" == *= ]] && compopt -o nospace 2>/dev/null
}}
complete -F _pama_exp pama-exp
"""
_ZSH = """\
# pama-exp: put  source <(pama-exp completion zsh)  into ~/.zshrc, after compinit
_pama_exp() {{
  local -a whole begun
  whole=({whole})
  begun=({begun})
  compadd -Q -a whole
  compadd -Q -S '' -a begun
  _files
}}
compdef _pama_exp pama-exp
"""


def main(arguments: list[str], prog: str) -> int:
    """Print the script for a shell."""
    parser = Parser(
        prog,
        description="Print a script that completes commands, groups, options and keys. "
        "Try it with: source <(pama-exp completion bash)",
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    parser.add_argument("--config-dir", type=folder, metavar="FOLDER", help="with options of your own in this folder")
    given = parser.parse_args(arguments)
    if given.config_dir is not None:
        check_folder(given.config_dir)
    found = words([given.config_dir] if given.config_dir is not None else [])
    begun = [word for word in found if word.endswith("=")]
    whole = [word for word in found if not word.endswith("=")]
    if given.shell == "bash":
        sys.stdout.write(_BASH.format(words=" ".join([*whole, *begun])))
    else:
        sys.stdout.write(_ZSH.format(whole=" ".join(whole), begun=" ".join(begun)))
    return 0


def words(own: list[Path]) -> list[str]:
    """All that may be typed: commands, flags, group=option, and keys that end in =.

    Args:
        own: folders with options of the user's.
    """
    from pama_exp.config.schema import Config

    options = [f"{'+' if group == 'sweep' else ''}{group}={name}" for group, names in groups(own).items()
               for name in names]  # fmt: skip
    return [*COMMANDS, *_FLAGS, *options, *(f"{key}=" for key in keys(Config))]


def keys(schema: type, above: str = "") -> list[str]:
    """The dotted key of every setting of the schema whose name is fixed."""
    found: list[str] = []
    hints: Mapping[str, type] = get_type_hints(schema)
    for one in fields(schema):
        kind = hints[one.name]
        if is_dataclass(kind):
            found += keys(kind, f"{above}{one.name}.")
        else:
            found.append(f"{above}{one.name}")
    return found
