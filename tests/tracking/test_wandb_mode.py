"""W&B never prompts, never hangs and costs no run: whatever is wrong with it, the run is offline, and a line says so."""

import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Thread

import pytest

from pama_exp.errors import UserError
from pama_exp.tracking import backends, run_wandb
from pama_exp.tracking.run_wandb import log_front, resolve_mode


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


@pytest.mark.parametrize(
    ("given", "mode"), [("", "offline"), ("dryrun", "offline"), ("run", "online"), ("OFFLINE", "offline")]
)
def test_old_names_of_modes_are_understood(given, mode, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", given)
    monkeypatch.setattr(run_wandb, "why_no_key", lambda: "no key is configured" if mode == "offline" else "")
    assert resolve_mode("auto", Path("run"))[0] == mode


def test_an_unknown_mode_is_named():
    with pytest.raises(UserError, match="sometimes"):
        resolve_mode("sometimes", Path("run"))


def server(stack, answer):
    """The url of a server that is dead (None), silent (empty), or answers everything with these bytes."""
    listening = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    if answer is None:
        listening.close()
        return url
    kept = []

    def serve():
        while True:
            try:
                kept.append(listening.accept()[0])
                if answer:
                    kept[-1].recv(2**16)
                    kept[-1].sendall(answer)
                    kept.pop().close()
            except OSError:
                return

    Thread(target=serve, daemon=True).start()
    return url


def http(status, body):
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


# What W&B's server does, and what the environment says besides.
BROKEN = {
    "dead": (None, {"WANDB_MODE": "online"}),
    "silent": (b"", {"WANDB_MODE": "online", "WANDB_HTTP_TIMEOUT": "300"}),
    "wrong key": (http(401, '{"data":null}'), {"WANDB_MODE": "online"}),
    "garbage": (http(200, "abcd"), {"WANDB_MODE": "online"}),
    "malformed key": (None, {"WANDB_MODE": "online", "WANDB_API_KEY": "short"}),
    "unknown mode": (None, {"WANDB_MODE": "sometimes"}),
    "no url": (None, {"WANDB_MODE": "online", "WANDB_BASE_URL": "nowhere"}),
}
CODE = """
import json, sys, time
import wandb
from pathlib import Path
folder = Path(sys.argv[1])
from pama_exp.tracking.run_wandb import resolve_mode, start_run, finish
start = time.monotonic()
mode, message = resolve_mode("auto", folder)
seconds = time.monotonic() - start
run = start_run(folder, mode, "p", "n", "i", None, None, [], {"key": 1})
if run is not None:
    run.log({"a": 1.0})
finish(run, {})
print(json.dumps([mode, message, seconds, run is not None]))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Several at once, since most of them wait."""

    def run(folder, answer, variables):
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": ":".join(sys.path)}
        environment |= {"WANDB_BASE_URL": server(stack, answer), "WANDB_API_KEY": "a1" * 20, **variables}
        command = [sys.executable, "-c", CODE, str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=True)
        return folder, done.stdout, done.stderr

    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        pending = {name: pool.submit(run, tmp_path_factory.mktemp("run"), *broken) for name, broken in BROKEN.items()}
        yield {name: outcome.result() for name, outcome in pending.items()}


@pytest.mark.slow("waits for servers that do not answer")
@pytest.mark.parametrize("name", BROKEN)
def test_a_server_that_does_not_take_the_key_costs_no_run(outcomes, name):
    folder, said, errors = outcomes[name]
    mode, message, seconds, has_run = json.loads(said.splitlines()[-1])
    assert mode == "offline"
    assert message.count("\n") == 0
    assert "wandb sync" in message
    assert seconds < 100
    assert "Traceback" not in said + errors
    assert "a1" * 20 not in said + errors
    assert has_run or "nowhere" in BROKEN[name][1].values()
    assert not has_run or list(folder.glob("wandb/offline-run-*/*.wandb"))


def test_a_run_that_dies_is_said_once_and_survived(capsys, monkeypatch):
    monkeypatch.setattr(backends, "_failed", set())

    class Dead:
        def log(self, *_):
            raise ConnectionError("gone\nfor good")

    for _ in range(3):
        log_front(Dead(), ["a", "b"], "gold", [0.0, 0.0], [1.0, 1.0], None)
    assert capsys.readouterr().out == "W&B: gone; the run's own record goes on.\n"
