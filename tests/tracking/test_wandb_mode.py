"""W&B never prompts and never hangs: without a key, auto is offline at once, with a line that says how to sync."""

import subprocess
import sys
from pathlib import Path

import pytest

from pama_exp.errors import UserError
from pama_exp.tracking.run_wandb import resolve_mode


def test_without_a_key_auto_is_offline_and_says_how_to_sync(tmp_path):
    code = (
        "from pathlib import Path; from pama_exp.tracking.run_wandb import resolve_mode;"
        f"print(resolve_mode('auto', Path({str(tmp_path)!r})))"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=200,
        check=True,
    )
    assert "'offline'" in done.stdout
    assert "wandb sync" in done.stdout


def test_the_environment_variable_decides_where_the_configuration_is_auto(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode("auto", Path("run")) == ("disabled", "")
    assert resolve_mode("offline", Path("run"))[0] == "offline"


def test_an_unknown_mode_is_named():
    with pytest.raises(UserError, match="sometimes"):
        resolve_mode("sometimes", Path("run"))
