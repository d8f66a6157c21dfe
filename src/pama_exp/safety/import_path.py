"""Where modules are looked for: installed packages first, the user's own modules beside the command after them.

Imported before anything that is installed, so it imports nothing but what comes with Python.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from pama_exp.errors import UserError


def put_last() -> None:
    """Move what Python has put first, the current folder or the script's, behind the installed packages.

    Otherwise a file called torch.py or yaml.py that happens to lie there would run in the package's place.
    """
    if not sys.flags.safe_path and sys.path:
        sys.path.append(sys.path.pop(0))


def add_current_folder() -> None:
    """The user's own files beside the command can be imported, from behind all that is installed.

    Raises:
        UserError: if there is no current folder any more.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise UserError("The current folder has been deleted.", "Change to one that is there.") from None
    if here not in sys.path:
        sys.path.append(here)


def import_module(name: str) -> ModuleType:
    """The module, unless another of the same name stands beside the command.

    Raises:
        UserError: if the name is both an installed package's and that of a file in the current folder, naming both.
        ImportError: if there is none.
    """
    top = name.partition(".")[0]
    module = importlib.import_module(name)
    root = sys.modules.get(top, module)
    own = next((path for path in (Path(f"{top}.py"), Path(top, "__init__.py")) if path.is_file()), None)
    loaded = getattr(root, "__file__", None) or "part of Python"
    if own is not None and own.absolute() != Path(loaded) and own.resolve() != Path(loaded).resolve():
        raise UserError(
            f"The module '{top}' is there twice: {own.absolute()} and {loaded}, which goes first.",
            "Rename your own file.",
        )
    return module
