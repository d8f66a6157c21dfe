"""Repositories of the Hugging Face Hub: found in the local cache, or downloaded; and checks of weight files."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import httpx
from huggingface_hub import HfApi, constants, errors, snapshot_download
from safetensors import SafetensorError, safe_open

from pama_exp.errors import UserError

Kind = Literal["model", "dataset"]

# Weights of other frameworks: not downloaded.
_FOREIGN = ("*.msgpack", "*.h5", "*.ot", "*.tflite", "*.onnx", "onnx/*", "coreml/*", "original/*", "openvino/*")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_PICKLED = tuple(f"*{suffix}" for suffix in _PICKLES)
# In the order in which transformers, and for adapters PEFT, look for them.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_REVISION = re.compile(r"[\w][\w./-]{0,199}", re.ASCII)
_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_TIMEOUT = 3.0  # seconds
_MAX_TEXT_BYTES = 2**28  # of a configuration or a tokenizer


def check_revision(revision: str | None, where: str) -> None:
    """Check that a revision could be one: a commit, tag or branch.

    Raises:
        UserError: if it could not; the message begins with `where`.
    """
    if revision is not None and not _REVISION.fullmatch(revision):
        raise UserError(f"{where}={revision[:60]!a} is no revision.", "Write a commit, a tag or a branch.")


def cached(repo_id: str, revision: str | None = None, kind: Kind = "model") -> Path | None:
    """The repository's folder in the Hub's cache; None if it, or any of a model's weight files, is missing."""
    root = cache_folder() / f"{kind}s--{repo_id.replace('/', '--')}"
    name = revision or "main"
    reference = root / "refs" / name
    commit = reference.read_text().strip() if reference.is_file() else name
    folder = root / "snapshots" / commit
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    return folder if kind == "dataset" or _is_whole(folder) else None


def resolve(repo_id: str, revision: str | None = None, kind: Kind = "model", refused_pickle: str | None = None) -> Path:
    """The repository's folder in the Hub's cache. It is downloaded first if it is not there.

    Args:
        repo_id: owner/name.
        revision: commit, tag or branch; None for the newest.
        kind: model or dataset.
        refused_pickle: name of the setting that allows pickled weights, if it is off: they are then not downloaded.

    Raises:
        UserError: if it is not in the cache and the Hub does not answer within a few seconds, if it is gated, if there
            is no such repository or revision, or if it holds refused pickles only.
    """
    if not _ID.fullmatch(repo_id):
        raise missing(repo_id, revision, kind)
    folder = cached(repo_id, revision, kind)
    if folder is not None:
        return folder
    if not is_reachable():
        raise missing(repo_id, revision, kind)
    return _fetch(repo_id, revision, kind, refused_pickle)


def pickled(source: str, setting: str) -> UserError:
    """The error for pickled weights that `setting` would allow."""
    return UserError(
        f"The weights in {source} are pickled (pytorch_model.bin), which can hold code.",
        f"{setting}=true reads them all the same, tensors alone; or give a revision or a folder with safetensors.",
    )


def missing(repo_id: str, revision: str | None = None, kind: Kind = "model") -> UserError:
    """The error for a repository that is not in the cache while the Hub does not answer, or that can be nowhere."""
    if not _ID.fullmatch(repo_id):
        return UserError(f"'{repo_id}' is no Hub id.", "Write owner/name, or give a local folder.")
    noun = "data set" if kind == "dataset" else "model"
    at = f" (revision {revision})" if revision is not None else ""
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
    return UserError(
        f"The {noun} {repo_id}{at} is not in the cache {cache_folder()}, and {why}.",
        f"Where there is a network: {fetch_command(repo_id, revision, kind)}",
    )


def fetch_command(repo_id: str, revision: str | None = None, kind: Kind = "model") -> str:
    """The shell command that downloads the repository into the cache."""
    words = ["hf download", repo_id]
    words += ["--repo-type dataset"] if kind == "dataset" else []
    words += [f"--revision {revision}"] if revision is not None else []
    return " ".join(words)


def cache_folder() -> Path:
    """The folder of the Hub's cache: HF_HUB_CACHE if set, else below HF_HOME."""
    return Path(constants.HF_HUB_CACHE)


def is_reachable(endpoint: str | None = None) -> bool:
    """Whether the Hub answers within a few seconds; False if HF_HUB_OFFLINE is set."""
    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def ask() -> None:
        try:
            httpx.head(endpoint or constants.ENDPOINT, timeout=_TIMEOUT)
        except httpx.HTTPError:
            return
        answered.set()

    # In a thread: no timeout covers the look-up of the host's name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    return answered.is_set()


def weights_format(folder: str | Path) -> Literal["safetensors", "pickle"] | None:
    """The format of the weight files that would be loaded: "pickle" if any of them is pickled; None if there are none.

    Weight files that would not be loaded are ignored.
    """
    folder = Path(folder)
    named = _named_weights(folder)
    names = loaded(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    names += [named] if named is not None else []
    if not names:
        return None
    return "safetensors" if all(map(_is_safe, names)) else "pickle"


def loaded(names: Iterable[str]) -> list[str]:
    """The weight files among `names` that transformers (for the model) and PEFT (for the adapter) would load."""
    files = set(names)
    orders = (_WEIGHTS, _ADAPTERS) if "adapter_config.json" in files else (_WEIGHTS,)
    first = [next((name for name in order if name in files), None) for order in orders]
    return [name for name in first if name is not None]


def _is_safe(name: str) -> bool:
    return name.endswith((".safetensors", ".safetensors.index.json"))


def _named_weights(folder: Path) -> str | None:
    """The weight file that config.json names; None if it names none."""
    try:
        named = json.loads((folder / "config.json").read_text()).get("transformers_weights")
    except (OSError, ValueError, AttributeError):  # loading the model reports what is wrong
        return None
    return None if named is None else str(named)


def check_regular(folder: str | Path) -> None:
    """The folder holds files and folders alone, and no text larger than a model's is: nothing to be waited for.

    Raises:
        UserError: for the first that is a pipe, a link to nothing, or too large.
    """
    for path in sorted(Path(folder).iterdir()) if os.path.isdir(folder) else ():
        if not path.is_file() and not path.is_dir():
            raise UserError(f"{path} is no file, or a link to none.", "Copy or fetch the file again.")
        if path.suffix in (".json", ".txt", ".jinja", ".model") and path.stat().st_size > _MAX_TEXT_BYTES:
            raise UserError(f"{path} is larger than any model's, {path.stat().st_size} bytes.", "Is the folder whole?")


def check_whole(folder: str | Path) -> None:
    """Check that every safetensors file has the length that its header says, and that no file of an index is missing.

    Only headers are read. An index may name only safetensors files in its own folder.

    Raises:
        UserError: for the first file that fails.
    """
    check_regular(folder)
    for index in Path(folder).glob("*.safetensors.index.json"):
        for shard in sorted(_shards(index)):
            if not shard.endswith(".safetensors") or Path(shard).name != shard:
                raise UserError(
                    f"{index} names {shard!r}, which is no file of safetensors beside it.", "Is the folder whole?"
                )
            if not (Path(folder) / shard).is_file():
                raise UserError(f"{folder} lacks {shard}, which {index.name} names.", "Is the folder whole?")
    for file in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(file, "np"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged ({error}).", "Copy or fetch the file again.") from None


def _is_whole(folder: Path) -> bool:
    """Whether the folder has a configuration, and every weight file that its index, if there is one, names."""
    if not (folder / "config.json").is_file() or weights_format(folder) is None:
        return False
    for index in folder.glob("*.index.json"):
        if all((folder / shard).exists() for shard in _shards(index)):
            return True
    return not any(folder.glob("*.index.json"))


def _shards(index: Path) -> set[str]:
    """The weight files that an index names."""
    try:
        return {str(name) for name in json.loads(index.read_text())["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index} is damaged.", "Copy or fetch the file again.") from None


def _fetch(repo_id: str, revision: str | None, kind: Kind, refused_pickle: str | None) -> Path:
    try:
        files = HfApi().list_repo_files(repo_id, revision=revision, repo_type=kind)
        has_safetensors = any(map(_is_safe, loaded(files)))
        if refused_pickle is not None and not has_safetensors and any(name.endswith(_PICKLES) for name in files):
            raise pickled(repo_id, refused_pickle)
        ignored = [] if kind == "dataset" else [*_FOREIGN, *(_PICKLED if has_safetensors else ())]
        return Path(snapshot_download(repo_id, revision=revision, repo_type=kind, ignore_patterns=ignored))
    except errors.GatedRepoError:
        raise UserError(
            f"{repo_id} is gated: this account has not been given access.",
            f"Ask for it at {constants.ENDPOINT}/{repo_id}, then `hf auth login`.",
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{repo_id} has no revision '{revision}'.", "Leave it out for the newest.") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"The Hub has no {kind} {repo_id} that this account can see.", "Check the id; if private, `hf auth login`."
        ) from None
    except (errors.HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{repo_id} could not be fetched ({reason}).", f"Try: {fetch_command(repo_id, revision, kind)}"
        ) from None
