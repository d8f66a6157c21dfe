"""The order in which modules are found: installed packages before the user's modules in the current folder.

This module is imported first, so it imports only the standard library.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from pama_exp.errors import UserError


def put_last() -> None:
    """Move the first entry of the search path, the folder of the script or the current one, to the end.

    Otherwise a file torch.py or yaml.py in that folder would be imported instead of the package.
    """
    if not sys.flags.safe_path and sys.path:
        sys.path.append(sys.path.pop(0))


def add_current_folder() -> None:
    """Add the current folder to the end of the search path, so that the user's modules can be imported.

    Raises:
        UserError: if the current folder has been deleted.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise UserError("The current folder has been deleted.", "Change to one that is there.") from None
    if here not in sys.path:
        sys.path.append(here)


def import_module(name: str) -> ModuleType:
    """Import a module.

    Raises:
        UserError: if an installed package and a file in the current folder both have its name.
        ImportError: if there is no such module.
    """
    top = name.partition(".")[0]
    module = importlib.import_module(name)
    root = sys.modules.get(top, module)
    local = next((path for path in (Path(f"{top}.py"), Path(top, "__init__.py")) if path.is_file()), None)
    loaded = getattr(root, "__file__", None) or "part of Python"
    if local is not None and local.resolve() != Path(loaded).resolve():
        raise UserError(
            f"The module '{top}' is there twice: {local.absolute()} and {loaded}, which goes first.",
            "Rename your own file.",
        )
    return module
