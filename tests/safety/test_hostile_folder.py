"""A run's folder from somebody who means harm, under every command that reads runs: nothing is executed, leaked or lost.

A line in HOSTILE adds a kind, one in COMMANDS a command. A command may work or refuse in two lines, at its leisure.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import yaml

from commands import FAST, ROOT, composed, environment, run_config, run_here
from pama_exp import runs, sync
from pama_exp.errors import UserError
from pama_exp.report import __main__ as report
from records import without_sums
from tracking.test_folder import contents, thesis

WORDS = ["objectives=helpful", "solver=linear", "reward=gold"]
# Of the user who looks at the folder, in their environment; the last ones stand in the stranger's record.
MINE = {"MY_DATABASE_PASSWORD": "planted-of-mine-1", "HOME_SECRET": "planted-of-mine-2", "WANDB_API_KEY": "f" * 40}
THEIRS = {
    "userinfo": "http://user:planted5userinfo@host/x",
    "query": "http://host/x?api_key=planted5query",
    "bearer": "Authorization: Bearer planted5bearer0000",
    "hub": "hf_planted5hub000000000000000000000000",
    "key": "sk-planted5key00000000000000000000000000",
    "password": "password=planted5password",
}


class Code:
    """Runs as it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.fixture(scope="module")
def experts(tmp_path_factory, shared_cache):
    root = tmp_path_factory.mktemp("experts")
    for name in ("helpful", "concise"):
        run_here(f"objectives={name}", *WORDS[1:], output=root / name, cache=shared_cache)
    return root


class Scene:
    """A hostile folder, what it wants to harm, and where commands may write."""

    def __init__(self, root, experts):
        self.root, self.mark, self.out = root, root / "was-run", root / "out"
        self.folder = shutil.copytree(experts / "helpful", root / "strangers" / "helpful")
        self.other = shutil.copytree(experts / "concise", root / "strangers" / "concise")
        self.home = thesis(root / "home")
        (self.home / "rows.jsonl").write_text('{"step": 9, "mine": 1.0}\n')
        self.out.mkdir()
        without_sums(self.folder)

    def edit(self, name, change):
        path = self.folder / name
        is_json = name.endswith(".json")
        content = json.loads(path.read_text()) if is_json else yaml.safe_load(path.read_text())
        change(content)
        path.write_text(json.dumps(content) if is_json else yaml.safe_dump(content, sort_keys=False))

    def config(self, key, value):
        def change(content):
            *parents, last = key.split(".")
            for part in parents:
                content = content[part]
            content[last] = value

        self.edit("config.yaml", change)

    def link(self, name, to):
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(to)


def target(scene):
    scene.config("advantage._target_", "os.mkdir")
    scene.config("advantage.path", str(scene.mark))


def scorer(scene):
    scene.config("objectives.helpful.scorers", {"any": {"function": f"os:mkdir('{scene.mark}')"}})
    (scene.folder / "os.py").write_text(f"import pathlib; pathlib.Path({str(scene.mark)!r}).mkdir()")


def interpolation(scene):
    scene.config("objectives.helpful.description", "${oc.env:MY_DATABASE_PASSWORD} ${oc.env:HOME_SECRET}")
    scene.config("model.licence", "${oc.env:HOME_SECRET}")


def checkpoint(scene):
    for path in (scene.folder / "checkpoints").iterdir():
        if path.suffix == ".ckpt":
            torch.save({"alignment": {"step": int(path.stem[5:])}, "code": Code(scene.mark)}, path)
        else:
            path.unlink()


def weights(scene):
    policy = scene.folder / "policy"
    (policy / "model.safetensors").unlink()
    (policy / "manifest.json").unlink()
    (policy / "pytorch_model.bin").write_bytes(pickle.dumps(Code(scene.mark)))


def remote_code(scene):
    (scene.folder / "policy" / "manifest.json").unlink()
    (scene.folder / "policy" / "mine.py").write_text(f"import pathlib; pathlib.Path({str(scene.mark)!r}).mkdir()")
    scene.edit(
        "policy/config.json", lambda c: c.update(auto_map={"AutoModelForCausalLM": "mine.Model"}, model_type="mine")
    )


def name_is_a_path(scene):
    wrong = "../../../../home/thesis"

    def change(content):
        for key in ("objectives", "calibration"):
            if "helpful" in content.get(key, {}):
                content[key][wrong] = content[key].pop("helpful")

    scene.edit("config.yaml", change)
    scene.edit("result.json", change)


def links(scene):
    scene.link("metrics.jsonl", scene.home / "rows.jsonl")
    scene.link("generations.jsonl", scene.home / "thesis.tex")
    scene.link("front.png", scene.home / "front.png")
    scene.link("wandb", scene.home)


def linked_folders(scene):
    scene.link("checkpoints", scene.home)
    scene.link("status.json", scene.home / "thesis.tex")
    scene.link("environment.json", "/proc/self/environ")


def loops(scene):
    (scene.folder / "up").symlink_to("..", target_is_directory=True)
    (scene.folder.parent / "again").symlink_to(".", target_is_directory=True)
    scene.link("status.json", "status.json")
    scene.link("policy/README.md", "README.md")


def pipes(scene):
    for name in ("metrics.jsonl", "environment.json", "status.json", "policy/tokenizer.json", "policy/config.json"):
        (scene.folder / name).unlink()
        os.mkfifo(scene.folder / name)
    (scene.folder / "policy" / "manifest.json").unlink()


def huge(scene):
    for name in ("result.json", "policy/config.json"):
        os.truncate(scene.folder / name, 2**30)
    (scene.folder / "status.json").write_text("[" * 100_000)


def formulas(scene):
    rows = [json.loads(line) for line in (scene.folder / "generations.jsonl").read_text().splitlines()]
    for row in rows:
        row["prompt"], row["response"] = "=cmd|' /C calc'!A0", "@SUM(1+1)"
    (scene.folder / "generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scene.config("solver.name", "=HYPERLINK(1)")
    scene.folder = scene.folder.rename(scene.folder.with_name("=1+1"))


def secrets(scene):
    scene.config("objectives.helpful.description", " ".join(THEIRS.values()))
    scene.config("model.licence", THEIRS["hub"])
    scene.config("logger.project", THEIRS["userinfo"])
    scene.edit("environment.json", lambda c: c.update(command=["run.py", *THEIRS.values()]))
    scene.edit("status.json", lambda c: c.update(state="failed", detail=" ".join(THEIRS.values())))


def shadows(scene):
    for name in ("torch", "yaml", "json", "pama_exp", "sitecustomize", "hydra"):
        (scene.folder / f"{name}.py").write_text(f"import os; os.mkdir({str(scene.mark)!r})")
    scene.shadowed = True


def markup(scene):
    script = "<script>window.was_run=1</script><img src=x onerror=alert(1)>"
    scene.config("objectives.helpful.description", script)
    scene.config("solver.name", script)
    scene.edit("environment.json", lambda c: c.update(command=[script]))
    scene.folder = scene.folder.rename(scene.folder.with_name("<script>alert(1)<"))


HOSTILE = [
    target,
    scorer,
    interpolation,
    checkpoint,
    weights,
    remote_code,
    name_is_a_path,
    links,
    linked_folders,
    loops,
    pipes,
    huge,
    formulas,
    secrets,
    shadows,
    markup,
]


def stage(scene, *words, output):
    folders = [f"output={output}", f"cache_dir={scene.cache}"]
    return lambda: run_config(composed(*FAST, *words, *folders))


def resumed(scene):
    """The command that made it, as it is given after a kill before the result."""
    (scene.folder / "result.json").unlink(missing_ok=True)
    return stage(scene, *WORDS, output=f"'{scene.folder}'")


COMMANDS = {
    "report": lambda scene: lambda: report.main([str(scene.folder.parent), "--output", str(scene.out / "report")]),
    "compare": lambda scene: stage(
        scene, "stage=compare", f"compare.runs=['{scene.folder.parent}']", output=scene.out / "compared"
    ),
    "runs": lambda scene: lambda: runs.main([str(scene.folder.parent)]),
    "show": lambda scene: lambda: runs.main(["show", str(scene.folder)]),
    "diff": lambda scene: lambda: runs.main(["diff", str(scene.folder), str(scene.other)]),
    "soup": lambda scene: stage(
        scene, "stage=soup", f"soup.runs=['{scene.folder}','{scene.other}']", "soup.grid=2", output=scene.out / "soup"
    ),
    "evaluate": lambda scene: stage(
        scene, "stage=evaluate", f"evaluate.run='{scene.folder}'", output=scene.out / "evaluated"
    ),
    "sync": lambda scene: lambda: sync.main([str(scene.folder.parent)]),
    "resume": resumed,
}


def texts_below(folder):
    """{file: its bytes}, without what is too large to be looked into."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 2**26:
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def state(folder):
    """The same, and the names, kinds and sizes of all."""
    kinds = {str(path.relative_to(folder)): os.lstat(path)[:1] + os.lstat(path)[6:7] for path in folder.rglob("*")}
    return texts_below(folder), kinds


@pytest.fixture
def no_waiting():
    """A command that waits for a pipe, or reads without end, is ended: a failure."""

    def end(*_):
        raise TimeoutError("it waits")

    previous = signal.signal(signal.SIGALRM, end)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.slow("every kind of hostile folder under every command")
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.__name__)
def test_nothing_is_executed_leaked_or_lost(
    hostile, name, tmp_path, experts, shared_cache, monkeypatch, capfd, no_waiting
):
    scene = Scene(tmp_path, experts)
    scene.cache = shared_cache
    hostile(scene)
    work = COMMANDS[name](scene)
    for key, value in MINE.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("HOME", str(scene.home))
    monkeypatch.chdir(scene.root)
    home, before = contents(scene.home), state(scene.folder)
    capfd.readouterr()
    refusal = ""
    try:
        work()
    except UserError as error:
        refusal = str(error)
        assert refusal.count("\n") == 1
        assert max(map(len, refusal.splitlines())) < 600
    said = "".join(capfd.readouterr()) + refusal
    assert "Traceback" not in said
    assert not scene.mark.exists(), "code of the folder was run"
    assert contents(scene.home) == home, "what is somebody else's was changed"
    if name != "resume":
        assert state(scene.folder) == before, "a reader wrote into what it reads"
    written = texts_below(scene.out) | {"said": said.encode()}
    if name == "resume":
        written |= {k: v for k, v in texts_below(scene.folder).items() if v != before[0].get(k)}
    for file, content in written.items():
        for secret in [*MINE.values(), b"planted5"]:
            assert (secret if isinstance(secret, bytes) else secret.encode()) not in content, file
        if file.endswith(".csv"):
            cells = [cell.strip('"') for line in content.decode().splitlines() for cell in line.split(",")]
            assert not [cell for cell in cells if cell.startswith(("=", "@"))], file
        if file.endswith((".html", ".md")):
            assert b"<script>alert" not in content, file
            assert b"<script>window" not in content, file
            assert b"<img src=x" not in content, file
    assert set(os.listdir(scene.root)) <= {"strangers", "home", "out"}, "something was written elsewhere"


@pytest.mark.slow("starts processes")
@pytest.mark.parametrize("words", [["-m", "pama_exp.runs", "."], [str(ROOT / "run.py"), "--cfg", "job"]])
def test_modules_in_the_folder_that_a_command_is_given_in_are_not_run(words, tmp_path, experts):
    scene = Scene(tmp_path, experts)
    shadows(scene)
    (scene.folder / "pama_exp.py").unlink()  # with -m it is Python itself that would take it for the package
    done = subprocess.run(
        [sys.executable, *words], cwd=scene.folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not scene.mark.exists()
