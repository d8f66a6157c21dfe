"""OmegaConf resolvers of conf/: `${run_folder:}` and `${basename:…}`."""

from __future__ import annotations

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from pama_exp.config.naming import VOLATILE, basename, digest, method_label, recorded, slug


def _run_folder(*, _root_: DictConfig) -> str:
    """`runs/<model>-<obj1>+<obj2>-<solver>-s<seed>-<hash>`, the same for the same configuration."""
    plain = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key not in VOLATILE and key != "hydra"])
    container = recorded(cast(dict[str, Any], OmegaConf.to_container(plain, resolve=True)))
    stage = str(container["stage"].get("name", "align"))
    prefix = "" if stage == "align" else f"{stage}-"
    objectives = slug(*map(str, container["objectives"]))
    name = f"{slug(prefix + str(container['model']['name']))}-{objectives}-{slug(method_label(container))}"
    return f"runs/{name[:200]}-s{slug(str(container['seed']))}-{digest(container)}"


def register() -> None:
    """Register both resolvers with OmegaConf."""
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("basename", basename, replace=True)
