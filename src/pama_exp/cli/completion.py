"""`pama-exp completion bash`: a script with which the shell completes commands, groups, options and keys."""

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
# Bash breaks words at =, so the part before = is removed from the replies.
_BASH = """\
# pama-exp: put  source <(pama-exp completion bash)  into ~/.bashrc
_pama_exp() {{
  local typed="${{COMP_LINE:0:COMP_POINT}}"
  typed="${{typed##* }}"
  local words="{complete} {keys}"
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
  local -a complete keys
  complete=({complete})
  keys=({keys})
  compadd -Q -a complete
  compadd -Q -S '' -a keys
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
    args = parser.parse_args(arguments)
    if args.config_dir is not None:
        check_folder(args.config_dir)
    template = _BASH if args.shell == "bash" else _ZSH
    listed = words([args.config_dir] if args.config_dir is not None else [])
    complete, unfinished = ([word for word in listed if word.endswith("=") == is_key] for is_key in (False, True))
    sys.stdout.write(template.format(complete=" ".join(complete), keys=" ".join(unfinished)))
    return 0


def words(folders: list[Path]) -> list[str]:
    """The words that may be typed: commands, flags, group=option, and keys that end in =.

    Args:
        folders: of the user's options.
    """
    from pama_exp.config.schema import Config

    options = [f"{'+' if group == 'sweep' else ''}{group}={name}" for group, names in groups(folders).items()
               for name in names]  # fmt: skip
    return [*COMMANDS, *_FLAGS, *options, *(f"{key}=" for key in keys(Config))]


def keys(schema: type, prefix: str = "") -> list[str]:
    """The dotted keys of all settings of the schema that have fixed names."""
    dotted: list[str] = []
    types: Mapping[str, type] = get_type_hints(schema)
    for field in fields(schema):
        kind = types[field.name]
        dotted += keys(kind, f"{prefix}{field.name}.") if is_dataclass(kind) else [f"{prefix}{field.name}"]
    return dotted
