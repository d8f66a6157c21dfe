import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from huggingface_hub import constants

from pama_exp.errors import UserError
from pama_exp.hub import repositories

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def place(cache, repo, *files, kind="models", **contents):
    """A repository as huggingface_hub lays it out."""
    root = cache / f"{kind}--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    folder = root / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text("x")
    for name, text in contents.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_a_whole_repository_is_found_by_branch_and_by_commit(cache):
    folder = place(cache, "some/model", "config.json", "model.safetensors")
    assert (
        repositories.cached("some/model")
        == repositories.cached("some/model", COMMIT)
        == repositories.resolve("some/model")
        == folder
    )
    assert repositories.cached("some/model", "another") is None
    assert repositories.cached("some/model", kind="dataset") is None
    data = place(cache, "some/data", "train.jsonl", kind="datasets")
    assert repositories.resolve("some/data", kind="dataset") == data


def test_a_model_without_all_its_weights_is_not_there(cache):
    place(cache, "no/weights", "config.json")
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    place(cache, "half/weights", "config.json", "model-1.safetensors", model__safetensors__index__json=index)
    whole = ["config.json", "model-1.safetensors", "model-2.safetensors"]
    folder = place(cache, "all/weights", *whole, model__safetensors__index__json=index)
    assert repositories.cached("no/weights") is repositories.cached("half/weights") is None
    assert repositories.cached("all/weights") == folder


def test_weights_are_told_apart(cache):
    assert (
        repositories.weights_format(place(cache, "a/safe", "model.safetensors", "pytorch_model.bin")) == "safetensors"
    )
    assert repositories.weights_format(place(cache, "a/pickle", "pytorch_model.bin")) == "pickle"
    assert repositories.weights_format(place(cache, "a/none", "config.json")) is None


@pytest.mark.parametrize(
    ("kind", "revision", "command"),
    [
        ("model", None, "hf download owner/thing"),
        ("dataset", "v2", "hf download owner/thing --repo-type dataset --revision v2"),
    ],
)
def test_offline_it_is_said_what_is_missing_and_what_fetches_it(cache, kind, revision, command):
    with pytest.raises(UserError, match="owner/thing") as caught:
        repositories.resolve("owner/thing", revision, kind)
    assert str(cache) in caught.value.message
    assert command in caught.value.hint


def test_a_hub_that_does_not_answer_is_given_up_within_seconds(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    silent = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_HEAD(self):
            silent.wait(300)

    with serving(Silent) as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        started = time.monotonic()
        with pytest.raises(UserError, match="does not answer"):
            repositories.resolve("owner/thing")
        assert time.monotonic() - started < 100
        silent.set()


@pytest.mark.parametrize("name", ["", "a/b/c", "a b/c", "../x/y", "../x", "-x/y", "a/.b", "a/é", "a/b\n"])
def test_what_cannot_be_an_id_is_refused(name):
    with pytest.raises(UserError, match="no Hub id"):
        repositories.resolve(name)
    assert "no Hub id" in repositories.missing(name).message  # as preflight and the check of assets say it


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's protocol as a download needs."""

    files: ClassVar = {
        "config.json": b"{}",
        "model.safetensors": b"weights",
        "pytorch_model.bin": b"pickle",
        "tf.h5": b"h5",
    }

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/":
            self.answer(b"")
        elif "gated" in path or "unknown" in path:
            code, status = ("GatedRepo", 403) if "gated" in path else ("RepoNotFound", 404)
            self.answer(b"{}", status, {"X-Error-Code": code})
        elif "/tree/" in path:
            self.answer(
                json.dumps([{"type": "file", "path": n, "size": len(b), "oid": n} for n, b in self.files.items()])
            )
        elif path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in self.files]
            self.answer(json.dumps({"id": "owner/open", "sha": COMMIT, "siblings": siblings}))
        else:
            body = self.files[path.rpartition("/")[2]]
            self.answer(body, 200, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def answer(self, body, status=200, headers=None):
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class serving:
    """A server on loopback for as long as the block lasts."""

    def __init__(self, handler):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class PickledHub(Hub):
    """Its repositories hold no safetensors, and say what was taken from them."""

    files: ClassVar = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    taken: ClassVar = []

    def do_GET(self):
        if "/resolve/" in self.path and self.command == "GET":
            self.taken.append(self.path.rpartition("/")[2])
        super().do_GET()


ASK = """
import sys
from pama_exp.hub import repositories
from pama_exp.errors import UserError
for name in sys.argv[1:]:
    try:
        refused = "model.allow_pickle" if name.endswith("refused") else None
        print(*sorted(path.name for path in repositories.resolve(name, None, "model", refused).iterdir()))
    except UserError as error:
        print(str(error).replace(chr(10), " "))
"""


def ask(endpoint, home, *names):
    # In a process of its own: huggingface_hub reads its endpoint once.
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", ASK, *names]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_pickles_that_are_refused_are_not_fetched(tmp_path):
    with serving(PickledHub) as endpoint:
        (refused,) = ask(endpoint, tmp_path, "owner/refused")
        assert "owner/refused are pickled" in refused
        assert "model.allow_pickle=true" in refused
        assert PickledHub.taken == []
        assert ask(endpoint, tmp_path, "owner/asked-for") == ["config.json pytorch_model.bin"]
        assert "pytorch_model.bin" in PickledHub.taken


def test_where_the_hub_answers_it_is_fetched_once_without_what_nothing_reads(tmp_path):
    with serving(Hub) as endpoint:
        fetched, gated, unknown = ask(endpoint, tmp_path, "owner/open", "owner/gated", "owner/unknown")
    assert fetched == "config.json model.safetensors"
    assert "owner/gated is gated" in gated
    assert "hf auth login" in gated
    assert "no model owner/unknown" in unknown
    again, other = ask(endpoint, tmp_path, "owner/open", "owner/other")  # the server is gone
    assert again == fetched
    assert f"{endpoint} does not answer" in other
