"""Python runs this at its start where this folder is on the path: see events.py."""

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("reliability_events", Path(__file__).parents[1] / "events.py")
assert _spec is not None
assert _spec.loader is not None
_events = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_events)
_events.install_as_told()
