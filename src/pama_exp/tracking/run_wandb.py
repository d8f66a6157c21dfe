"""W&B: a run that never prompts, never hangs, and never takes the training down with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pama_exp.errors import UserError, suggest
from pama_exp.tracking.console import note
from pama_exp.tracking.record import RunRecord

_MODES = ("auto", "online", "offline", "disabled")
_VERIFY_SECONDS = 5
_FRONT_ROWS = 200


def resolve_mode(requested: str, folder: Path) -> tuple[str, str]:
    """The mode to use, and a line for the person watching (empty where there is nothing to say).

    `auto` goes online only with a key that the server accepts; $WANDB_MODE decides where it is set.

    Raises:
        UserError: for an unknown mode.
    """
    if requested not in _MODES:
        raise UserError(f"logger.mode={requested} is not one of its values.", suggest(requested, _MODES))
    if requested == "auto":
        requested = os.environ.get("WANDB_MODE", "auto")
    if requested == "auto":
        requested = "online" if has_verified_key() else "offline"
    hint = (
        f"W&B is offline; to upload the run: wandb sync {folder}/wandb/offline-run-*" if requested == "offline" else ""
    )
    return requested, hint


def has_verified_key() -> bool:
    """Whether W&B's server accepts the key that is configured; False without one, at once and with no question."""
    import wandb

    try:
        return bool(wandb.login(prompt=False, verify=True, timeout=_VERIFY_SECONDS))
    except Exception:  # whatever the reason, it is not a verified key
        return False


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
) -> Any:
    """A W&B run inside the run's folder, or None if disabled.

    The whole configuration is under one key: sweep parameters otherwise overwrite whole groups. A resumed run has
    the same id; offline, that makes a second folder with the same id.
    """
    if mode == "disabled":
        return None
    import wandb

    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
        os.environ[variable] = str(folder / "wandb")
    (folder / "wandb").mkdir(exist_ok=True)
    run = wandb.init(
        dir=str(folder),
        mode=mode,  # type: ignore[arg-type]
        project=project,
        name=name,
        id=run_id,
        resume="allow" if mode == "online" else None,
        group=group,
        job_type=job_type,
        tags=list(dict.fromkeys(tag[:64] for tag in tags)),
        config={"experiment": dict(config)},
        settings=wandb.Settings(silent=True, console="off"),
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


def _survive(call: Any) -> None:
    try:
        call()
    except Exception as error:  # the run's own record has it all; W&B must not cost it
        note(
            f"W&B: {str(error).splitlines()[0] if str(error) else type(error).__name__}; the run's own record goes on."
        )
