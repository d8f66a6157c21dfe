"""A stage that takes no time, for sweeps whose jobs are not the point: two objectives of one setting, front known."""

import json
import os
import signal
import sys
from pathlib import Path

# Written beside the user's command, as a stage of their own would be.
STAGE = '''
import os, signal, sys
from pathlib import Path

def run(setup, record):
    """helpful = 1 - x², concise = 1 - (1 - x)² for x = training.clip: every x in [0, 1] is on the front."""
    x = setup.config.training.clip
    name = f"{x:.2f}"
    if Path(f"crash-{name}").exists():
        raise RuntimeError(f"made to crash at {name}")
    if Path(f"kill-{name}").exists():
        Path(f"kill-{name}").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    Path("runs.txt").open("a").write(f"{name}\\n")
    record.log_metrics(1, {"eval/gold/helpful/mean": 1 - x * x, "eval/gold/concise/mean": 1 - (1 - x) ** 2})
    after = {"helpful": {"gold": 1 - x * x, "proxy": 0.0}, "concise": {"gold": 1 - (1 - x) ** 2, "proxy": 0.0}}
    return {"status": "complete", "objectives": {name: {"before": None, "after": means} for name, means in after.items()}}
'''
TOY = ["stage._target_=my_stage.run", "stage.name=toy", "model=micro", "debug=fast", "reward=gold"]


def prepare(folder: Path, monkeypatch) -> None:
    """A working folder with the stage in it, and this process in that folder."""
    (folder / "my_stage.py").write_text(STAGE)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PAMA_EXP_CACHE", str(folder / "cache"))


def sweep_here(*words: str, monkeypatch) -> int:
    """`python run.py …` in this process (its jobs in theirs); the exit status."""
    from commands import the_last
    from pama_exp.cli import app

    monkeypatch.setattr(sys, "argv", ["run.py", *the_last(words)])
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    try:
        app.main()
    except SystemExit as left:
        return int(left.code or 0)
    finally:
        after = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
        assert after == before, "handlers are given back"
    return 0


def ran(folder: Path) -> list[str]:
    """What the jobs so far worked on, one entry each time."""
    path = folder / "runs.txt"
    return path.read_text().split() if path.exists() else []


def jobs(folder: Path) -> list[dict]:
    """The jobs as the one sweep of this folder keeps them."""
    [path] = folder.glob("runs/sweeps/*/sweep.json")
    return json.loads(path.read_text())["jobs"]


def alive(pid: int) -> bool:
    """Whether the process is there and not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
