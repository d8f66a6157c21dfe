"""Running the application from tests: in this process for speed, in its own where exit status and signals matter."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

from pama_exp.cli import execute
from pama_exp.cli.command_line import as_hydra_reads, check_command_line
from pama_exp.config import resolvers, schema
from pama_exp.sweeping import search_path
from pama_exp.tracking.record import RunRecord

ROOT = Path(__file__).parents[1]
FAST = ["debug=fast", "model=micro"]


def the_last(words: Sequence[str]) -> list[str]:
    """Of words that set one key, or one group, the last: tests say a basis, and then what is other about them."""
    keys = [word.lstrip("+").partition("=")[0] for word in words]
    return [word for place, word in enumerate(words) if "=" not in word or keys[place] not in keys[place + 1 :]]


def composed(*overrides: str, hydra: bool = False):
    resolvers.register()
    search_path.register()
    words = the_last(overrides)
    read = as_hydra_reads(words, words, imply_mode=False)
    checked = check_command_line(read)
    if not hydra and len(checked) == 1:
        return checked[0]
    with initialize_config_dir(str(schema.CONF), version_base="1.3"):
        return compose("config", read, return_hydra_config=hydra)


def run_config(config):
    """Run what was composed, in this process."""
    return execute.run(schema.typed(config))


def run_here(*overrides: str, output: Path, cache: Path) -> RunRecord:
    run_config(composed(*FAST, *overrides, f"output={output}", f"cache_dir={cache}"))
    return RunRecord.open(output)


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), *the_last(overrides)]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **extra}


def run_command(*overrides: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*overrides), cwd=cwd, env=environment(**extra), capture_output=True, text=True, timeout=280, check=False
    )


def learning(rows: list[dict]) -> list[dict]:
    """Metrics without those that measure the machine rather than the method."""
    machine = ("time/", "throughput/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(machine)} for row in rows]


def wait_for_step(output: Path, step: int, process: subprocess.Popen[str], seconds: float = 200) -> None:
    """Until the run at `output` has written what it measured at a step."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        metrics = output / "metrics.jsonl"
        if metrics.exists() and f'"step": {step}' in metrics.read_text():
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
    raise TimeoutError(step)
