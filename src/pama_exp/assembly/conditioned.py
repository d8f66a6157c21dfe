"""A preference-conditioned policy, from its settings: what draws its preferences, writes them, and restores its map."""

from __future__ import annotations

from pathlib import Path

from pama_exp.config.schema import Config
from pama_exp.data.preferences import Drawn, Writer
from pama_exp.errors import UserError
from pama_exp.policy.export import PREFERENCE_GATES, PREFERENCE_MAP, load_preference_map
from pama_exp.policy.policy import Policy


def make_drawn(config: Config) -> Drawn | None:
    """What draws each training prompt's preference; None where the policy is not conditioned."""
    c = config.conditioning
    return None if c.name == "none" else Drawn(len(config.objectives), c.concentration, config.seed)


def make_writer(config: Config) -> Writer | None:
    """What writes preferences before prompts, for conditioning=prompt; None otherwise."""
    c = config.conditioning
    return Writer(list(config.objectives), c.item, c.separator, c.end, c.levels) if c.name == "prompt" else None


def restore_map(policy: Policy, folder: Path, names: list[str]) -> None:
    """Give the policy the preference map that the folder holds, where it holds one.

    Raises:
        UserError: if the folder's policy is conditioned and this run's is not, or on other objectives.
    """
    saved = load_preference_map(folder)
    if saved is None:
        return
    in_adapter = (folder / PREFERENCE_GATES).is_file()
    if policy.preference_map is None or policy.is_told_in_adapter != in_adapter:
        name, kind = (PREFERENCE_GATES, "adapter") if in_adapter else (PREFERENCE_MAP, "embedding")
        raise UserError(f"{folder} holds a policy that is told its preference ({name}).", f"Add conditioning={kind}.")
    weight, theirs = saved
    if theirs != names:
        raise UserError(
            f"The policy in {folder} is told its preference over {theirs}, this run's over {names}.",
            f"Set 'objectives=[{','.join(theirs)}]'.",
        )
    policy.preference_map.load_state_dict({"weight": weight})
