"""W&B runs. They never prompt, wait for seconds at most, and never end the training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pama_exp.errors import UserError, suggest
from pama_exp.safety.secrets import redact, redacted
from pama_exp.tracking.backends import first_line, survive
from pama_exp.tracking.console import note
from pama_exp.tracking.record import RunRecord

_MODES = ("auto", "online", "offline", "disabled")
_OLD_NAMES = {"": "auto", "run": "online", "dryrun": "offline"}  # of $WANDB_MODE
_VERIFY_SECONDS = 6  # after W&B has been imported
_START_SECONDS = 15  # of a run whose key was verified
_FINISH_SECONDS = 60  # to upload pending data; the run's folder keeps the rest
_FRONT_ROWS = 200  # at most, of the true front in a table


def resolve_mode(requested: str, folder: Path) -> tuple[str, str]:
    """The mode to use, and a line for the user if the run is offline, else an empty text.

    `auto` takes $WANDB_MODE, else online. A run is online only if the server accepts the key within seconds. Nothing
    else that is wrong with W&B or its environment is an error.

    Args:
        requested: `logger.mode`.
        folder: of the run.

    Raises:
        UserError: for an unknown mode in the configuration.
    """
    if requested not in _MODES:
        raise UserError(f"logger.mode={requested} is not one of its values.", suggest(requested, _MODES))
    mode, reason = requested, ""
    if mode == "auto":
        variable = os.environ.get("WANDB_MODE", "").strip().lower()
        mode = _OLD_NAMES.get(variable, variable)
        if mode not in _MODES:
            mode, reason = "offline", f"WANDB_MODE={variable[:40]!r} is none of {', '.join(_MODES)}"
    if mode in ("auto", "online"):
        problem = why_no_key()
        reason = problem if mode == "online" else ""
        mode = "offline" if problem else "online"
    why = f" ({redact(reason)})" if reason else ""
    return mode, f"W&B is offline{why}; {_how_to_sync(folder)}" if mode == "offline" else ""


def _how_to_sync(folder: Path) -> str:
    return f"to upload the run: wandb sync {folder}/wandb/offline-run-*"


def why_no_key() -> str:
    """Why W&B's server does not accept the configured key; empty if it does.

    Without a key this takes no time. If the server does not answer, it takes seconds.
    """
    # With the user's values of these variables, W&B might not ask the server, or wait longer.
    with _environment(WANDB_MODE="online", WANDB_HTTP_TIMEOUT=str(_VERIFY_SECONDS)):
        try:
            import wandb

            accepted = wandb.login(prompt=False, verify=True, timeout=_VERIFY_SECONDS)
        except Exception as error:  # of any type: the key is not verified
            return first_line(error)
    return "" if accepted else "no key is configured"


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def start_run(
    folder: Path,
    mode: str,
    project: str,
    name: str,
    run_id: str,
    group: str | None,
    job_type: str | None,
    tags: Sequence[str],
    config: Mapping[str, Any],
    finish_seconds: float = _FINISH_SECONDS,
) -> Any:
    """Start a W&B run in the run's folder; None if it is disabled, or cannot be started even offline.

    The configuration is stored under one key, because parameters of a W&B sweep would overwrite whole groups. A run
    that resumes has the same id. Offline, it has a second folder with that id.
    """
    settings = {
        "project": project,
        "name": name,
        "id": run_id,
        "group": group,
        "job_type": job_type,
        "tags": list(dict.fromkeys(tag[:64] for tag in tags)),
        "config": {"experiment": redacted(config)},
    }
    for attempt in {"disabled": [], "online": ["online", "offline"]}.get(mode, ["offline"]):
        try:
            return _start(folder, attempt, finish_seconds, settings)
        except Exception as error:  # of any type: W&B must not end the run
            then = "W&B is offline; " + _how_to_sync(folder) if attempt == "online" else "the run goes on without it."
            note(f"W&B did not start ({first_line(error)}); {then}")
    return None


def _start(folder: Path, mode: str, finish_seconds: float, settings: Mapping[str, Any]) -> Any:
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
        os.environ[variable] = str(folder / "wandb")
    (folder / "wandb").mkdir(exist_ok=True)
    with _environment(WANDB_MODE=mode):
        import wandb

        run = wandb.init(
            **settings,
            dir=str(folder),
            mode=cast(Any, mode),
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=_START_SECONDS, finish_timeout=finish_seconds
            ),
            reinit="finish_previous",
        )
    run.define_metric("train/step")
    run.define_metric("train/episodes")
    run.define_metric("*", step_metric="train/step")
    return run


def log_generations(run: Any, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Log the generations of one evaluation as a table under `generations`."""
    import wandb

    columns = list(rows[0])
    data = [[row[column] for column in columns] for row in rows]
    _survive(lambda: run.log({"generations": wandb.Table(columns=columns, data=data), "train/step": float(step)}))


def log_front(
    run: Any, names: Sequence[str], kind: str, before: Sequence[float], after: Sequence[float], front: Any | None
) -> None:
    """Log the operating points and the true front (M, N), if it is known, as a table under `front`."""
    import wandb

    rows: list[list[Any]] = [["SFT policy", *before], ["aligned policy", *after]]
    if front is not None:
        points = front[:: max(1, len(front) // _FRONT_ROWS)]
        rows += [["true front", *map(float, point)] for point in points]
    columns = ["point", *(f"{kind}/{name}" for name in names)]
    _survive(lambda: run.log({"front": wandb.Table(columns=columns, data=rows)}))


def log_artifacts(run: Any, folder: Path) -> None:
    """Log the policy and the newest checkpoint of a run's folder as artifacts."""
    import wandb

    def upload() -> None:
        checkpoints = sorted(folder.glob("checkpoints/*.ckpt"))[-1:]
        for name, path in (("policy", folder / "policy"), *(("checkpoint", path) for path in checkpoints)):
            if path.exists():
                artifact = wandb.Artifact(f"{name}-{run.id}", type="model")
                (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
                run.log_artifact(artifact)

    _survive(upload)


def log_report(page: Path, project: str) -> None:
    """Log the page and all other files in its folder as the artifact of a run of job type `report`."""
    import wandb

    folder = page.parent.absolute()
    mode, message = resolve_mode("auto", folder)
    if message:
        note(message)
    run = start_run(folder, mode, project, folder.name, RunRecord(folder).run_id, None, "report", [], {})
    if run is not None:
        artifact = wandb.Artifact(f"report-{run.id}", type="report")
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.relative_to(folder).parts[0] != "wandb":
                artifact.add_file(str(path), str(path.relative_to(folder)))
        _survive(lambda: run.log_artifact(artifact))
        finish(run, {})


def finish(run: Any, summary: Mapping[str, Any]) -> None:
    """Write the summary and close the run, if there is one."""
    if run is not None:
        _survive(lambda: run.summary.update({"result": dict(summary)} if summary else {}))
        _survive(run.finish)


def read_offline(folder: Path) -> dict[str, Any]:
    """The content of the newest offline run in a run's folder.

    Returns:
        {config, tags, group, job_type, history: rows, summary, tables: {name: {columns, data}}, artifacts}. Tables are
        the newest of each name; artifacts are the names of models and reports.
    """
    log = max(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    run: dict[str, Any] = {"config": {}, "tags": [], "group": None, "job_type": None}
    run |= {"history": [], "summary": {}, "tables": {}, "artifacts": []}
    for record in map(json.loads, filter(None, lines)):
        content = record.get(record["type"], {})
        if record["type"] == "run":
            run |= {"tags": content.get("tags", []), "group": content.get("run_group")}
            run["job_type"] = content.get("job_type")
        if record["type"] in ("run", "config"):
            run["config"] |= content.get("config", content).get("update", {})
        elif record["type"] == "artifact" and content["type"] in ("model", "report"):
            run["artifacts"].append(content["name"])
        elif record["type"] == "summary":
            run["summary"] |= content.get("update", {})
        elif record["type"] == "history":
            row = content["item"]
            run["history"].append(row)
            for key in [key for key in row if key.endswith("._type") and row[key] == "table-file"]:
                name = key.removesuffix("._type")
                run["tables"][name] = json.loads((log.parent / "files" / row[f"{name}.path"]).read_text())
    return run


def _survive(call: Callable[[], Any]) -> None:
    survive("W&B", call)
