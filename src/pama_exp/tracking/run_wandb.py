"""W&B: a run that never prompts, never hangs, and never takes the training down with it."""

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
_FINISH_SECONDS = 60  # to upload what is pending; what is not uploaded is kept in the run's folder
_FRONT_ROWS = 200


def resolve_mode(requested: str, folder: Path) -> tuple[str, str]:
    """The mode to use, and a line for the person watching (empty where there is nothing to say).

    A run is online only with a key that the server accepts within seconds; $WANDB_MODE decides where `auto` leaves it
    to. Nothing that is wrong with W&B or its environment is a reason not to run.

    Raises:
        UserError: for an unknown mode in the configuration.
    """
    if requested not in _MODES:
        raise UserError(f"logger.mode={requested} is not one of its values.", suggest(requested, _MODES))
    mode, reason = requested, ""
    if mode == "auto":
        asked = os.environ.get("WANDB_MODE", "").strip().lower()
        mode = _OLD_NAMES.get(asked, asked)
        if mode not in _MODES:
            mode, reason = "offline", f"WANDB_MODE={asked[:40]!r} is none of {', '.join(_MODES)}"
    if mode in ("auto", "online"):
        wrong = why_no_key()
        reason = wrong if mode == "online" else ""
        mode = "offline" if wrong else "online"
    why = f" ({redact(reason)})" if reason else ""
    return mode, f"W&B is offline{why}; {_how_to_sync(folder)}" if mode == "offline" else ""


def _how_to_sync(folder: Path) -> str:
    return f"to upload the run: wandb sync {folder}/wandb/offline-run-*"


def why_no_key() -> str:
    """Why W&B's server does not take the key that is configured; empty where it does.

    Without a key this is known at once; a server that does not answer is given up within seconds.
    """
    # The mode is decided here: W&B's own reading of these would keep it from asking, or keep it waiting.
    with _environment(WANDB_MODE="online", WANDB_HTTP_TIMEOUT=str(_VERIFY_SECONDS)):
        try:
            import wandb

            accepted = wandb.login(prompt=False, verify=True, timeout=_VERIFY_SECONDS)
        except Exception as error:  # whatever the reason, it is not a verified key
            return first_line(error)
    return "" if accepted else "no key is configured"


def has_verified_key() -> bool:
    """Whether W&B's server accepts the key that is configured; False without one, at once and with no question."""
    return not why_no_key()


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
    """A W&B run inside the run's folder; None if disabled, or if it cannot even be started offline.

    The whole configuration is under one key: sweep parameters otherwise overwrite whole groups. A resumed run has
    the same id; offline, that makes a second folder with the same id.
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
    for tried in {"disabled": [], "online": ["online", "offline"]}.get(mode, ["offline"]):
        try:
            return _start(folder, tried, finish_seconds, settings)
        except Exception as error:  # whatever the reason, it is none to lose the run for
            said = "W&B is offline; " + _how_to_sync(folder) if tried == "online" else "the run goes on without it."
            note(f"W&B did not start ({first_line(error)}); {said}")
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
    """The generations of one evaluation as a table under `generations`."""
    import wandb

    columns = list(rows[0])
    data = [[row[column] for column in columns] for row in rows]
    _survive(lambda: run.log({"generations": wandb.Table(columns=columns, data=data), "train/step": float(step)}))


def log_front(
    run: Any, names: Sequence[str], kind: str, before: Sequence[float], after: Sequence[float], front: Any | None
) -> None:
    """The operating points, and the true front (M,N) where it is known, as a table under `front`."""
    import wandb

    rows: list[list[Any]] = [["SFT policy", *before], ["aligned policy", *after]]
    if front is not None:
        kept = front[:: max(1, len(front) // _FRONT_ROWS)]
        rows += [["true front", *map(float, point)] for point in kept]
    columns = ["point", *(f"{kind}/{name}" for name in names)]
    _survive(lambda: run.log({"front": wandb.Table(columns=columns, data=rows)}))


def log_artifacts(run: Any, folder: Path) -> None:
    """The aligned policy and the newest checkpoint of a run's folder."""
    import wandb

    def upload() -> None:
        for name, found in (("policy", [folder / "policy"]), ("checkpoint", sorted(folder.glob("checkpoints/*.ckpt")))):
            artifact = wandb.Artifact(f"{name}-{run.id}", type="model")
            if found and found[-1].is_dir():
                artifact.add_dir(str(found[-1]))
            elif found and found[-1].is_file():
                artifact.add_file(str(found[-1]))
            else:
                continue
            run.log_artifact(artifact)

    _survive(upload)


def log_report(page: Path, project: str) -> None:
    """A run of job type `report` that holds the page and what lies beside it as an artifact."""
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
    """Write the summary and close the run; nothing where there is none."""
    if run is not None:
        _survive(lambda: run.summary.update({"result": dict(summary)} if summary else {}))
        _survive(run.finish)


def read_offline(folder: Path) -> dict[str, Any]:
    """The newest offline run in a run's folder, as it would be uploaded.

    Returns:
        {config, tags, group, job_type, history: rows, summary, tables: {name: {columns, data}}, artifacts}; of each
        table the newest, of artifacts the names of models and reports.
    """
    log = max(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    read: dict[str, Any] = {"config": {}, "tags": [], "group": None, "job_type": None}
    read |= {"history": [], "summary": {}, "tables": {}, "artifacts": []}
    for record in map(json.loads, filter(None, lines)):
        content = record.get(record["type"], {})
        if record["type"] == "run":
            read |= {"tags": content.get("tags", []), "group": content.get("run_group")}
            read["job_type"] = content.get("job_type")
        if record["type"] in ("run", "config"):
            read["config"] |= content.get("config", content).get("update", {})
        elif record["type"] == "artifact" and content["type"] in ("model", "report"):
            read["artifacts"].append(content["name"])
        elif record["type"] == "summary":
            read["summary"] |= content.get("update", {})
        elif record["type"] == "history":
            row = content["item"]
            read["history"].append(row)
            for key in [key for key in row if key.endswith("._type") and row[key] == "table-file"]:
                name = key.removesuffix("._type")
                read["tables"][name] = json.loads((log.parent / "files" / row[f"{name}.path"]).read_text())
    return read


def _survive(call: Callable[[], Any]) -> None:
    survive("W&B", call)
