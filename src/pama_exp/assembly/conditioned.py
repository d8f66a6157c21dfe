"""The parts of a preference-conditioned policy: drawing preferences, writing them, and loading the preference map."""

from __future__ import annotations

from pathlib import Path

from pama_exp.config.schema import Config
from pama_exp.data.preferences import DrawnPreferences, Writer
from pama_exp.errors import UserError
from pama_exp.policy.export import PREFERENCE_GATES, PREFERENCE_MAP, load_preference_map
from pama_exp.policy.policy import Policy


def make_drawn(config: Config) -> DrawnPreferences | None:
    """Draws each training prompt's preference; None if the policy is not conditioned."""
    c = config.conditioning
    return None if c.name == "none" else DrawnPreferences(len(config.objectives), c.concentration, config.seed)


def make_writer(config: Config) -> Writer | None:
    """Writes preferences before prompts, for conditioning=prompt; None otherwise."""
    c = config.conditioning
    return Writer(list(config.objectives), c.item, c.separator, c.end, c.levels) if c.name == "prompt" else None


def restore_map(policy: Policy, folder: Path, names: list[str]) -> None:
    """Load the preference map from the folder into the policy, if the folder holds one.

    Raises:
        UserError: if the folder's policy is conditioned and this run's is not, or is so on other objectives.
    """
    saved = load_preference_map(folder)
    if saved is None:
        return
    in_adapter = (folder / PREFERENCE_GATES).is_file()
    if policy.preference_map is None or policy.is_conditioned_in_adapter != in_adapter:
        name, kind = (PREFERENCE_GATES, "adapter") if in_adapter else (PREFERENCE_MAP, "embedding")
        raise UserError(f"{folder} holds a policy that is told its preference ({name}).", f"Add conditioning={kind}.")
    weight, saved_names = saved
    if saved_names != names:
        raise UserError(
            f"The policy in {folder} is told its preference over {saved_names}, this run's over {names}.",
            f"Set 'objectives=[{','.join(saved_names)}]'.",
        )
    policy.preference_map.load_state_dict({"weight": weight})
