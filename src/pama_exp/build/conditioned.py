"""A preference-conditioned policy, from its settings: what draws and writes its preferences, what cannot serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from pama_exp.config.instantiate import locate
from pama_exp.config.naming import solver_label
from pama_exp.config.schema import CONF, Config
from pama_exp.data.preferences import Drawn, Writer, shares
from pama_exp.errors import UserError
from pama_exp.policy.export import PREFERENCE_MAP, load_preference_map
from pama_exp.policy.policy import Policy
from pama_exp.solvers.solver import Solver


def stream_settings(config: Config) -> dict[str, Any]:
    """What a `PromptStream` of training prompts needs besides; nothing where the policy is told nothing."""
    c = config.conditioning
    if c.name == "none":
        return {}
    drawn = Drawn(len(config.objectives), c.concentration, config.seed)
    return {"preferences": drawn, "writer": make_writer(config)}


def make_writer(config: Config) -> Writer | None:
    """What writes preferences before prompts, for conditioning=prompt."""
    c = config.conditioning
    return Writer(list(config.objectives), c.item, c.separator, c.end, c.levels) if c.name == "prompt" else None


def restore(policy: Policy, folder: Path, config: Config) -> None:
    """Give the policy the map that the folder holds, where it holds one.

    Raises:
        UserError: if the folder's policy is conditioned and this run's is not, or on other objectives.
    """
    names = list(config.objectives)
    found = load_preference_map(folder)
    if found is None:
        return
    if policy.preference_map is None:
        raise UserError(
            f"{folder} holds a policy that is told its preference ({PREFERENCE_MAP}).", "Add conditioning=embedding."
        )
    weight, theirs = found
    if theirs != names:
        raise UserError(
            f"The policy in {folder} is told its preference over {theirs}, this run's over {names}.",
            f"Set 'objectives=[{','.join(theirs)}]'.",
        )
    policy.preference_map.load_state_dict({"weight": weight})


def check_conditioning(config: Config, solver: Solver) -> None:
    """The solver, the engine and the objectives serve a conditioned policy.

    Raises:
        UserError: if one does not, or for a setting outside its range.
    """
    c = config.conditioning
    if c.name == "none":
        return
    where = f"conditioning={c.name}"
    if len(config.objectives) < 2:
        raise UserError(f"{where}: one objective leaves nothing to prefer.", "Give two or more, or conditioning=none.")
    if not c.concentration > 0:
        raise UserError(f"conditioning.concentration={c.concentration}.", "It is above 0; 1 is uniform.")
    if c.grid < 1:
        raise UserError(
            f"conditioning.grid={c.grid}.", "It is at least 1, which evaluates the objectives by themselves."
        )
    if not solver.takes_preferences:
        able = ", ".join(solvers_that_take_preferences())
        label = solver_label(config.solver)
        own = " as it is set" if label in able.split(", ") else ""
        raise UserError(
            f"{where} weighs every response by its own preference, which solver={label}{own} cannot.",
            f"Choose one of: {able}" + (" (pama by token or by sequence)." if "pama" in able else "."),
        )
    if c.name == "embedding" and not hasattr(locate(config.rollout.engine, "rollout.engine"), "shift_of"):
        raise UserError(
            f"{where}: this rollout engine cannot be told preferences.",
            "Set rollout=fast, rollout=hf, or conditioning=prompt.",
        )
    if c.name == "prompt":
        make_writer(config)
        if c.levels % c.grid:
            raise UserError(
                f"conditioning.levels={c.levels} is not a multiple of conditioning.grid={c.grid}.",
                "Preferences are evaluated as they are written.",
            )
        if config.model.chat_template == "tokenizer":
            raise UserError(
                f"{where} writes before the prompt, and a chat template is to begin it.",
                "Use conditioning=embedding, or model.chat_template=none.",
            )


def check_written(config: Config, tokenizer: PreTrainedTokenizerBase) -> None:
    """The tokenizer has words for every preference of the grid, and tells them apart.

    Raises:
        UserError: if not.
    """
    writer = make_writer(config)
    if writer is None:
        return
    texts = [writer.write("", asked) for asked in shares(len(config.objectives), config.conditioning.grid)]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id is not None and any(tokenizer.unk_token_id in row for row in rows)
    if unknown or len({tuple(row) for row in rows}) < len(texts):
        raise UserError(
            f"conditioning=prompt: the tokenizer has no words for {texts[0]!r}.",
            "Use conditioning=embedding, which needs none.",
        )


def longest_read(config: Config, prompts: list[str]) -> list[str]:
    """The prompts as the policy reads them, with the longest of preferences."""
    writer = make_writer(config)
    if writer is None:
        return prompts
    uneven = [1 / writer.levels] * (len(writer.names) - 1)
    return [writer.write(text, [*uneven, 1 - sum(uneven)]) for text in prompts]


def solvers_that_take_preferences() -> list[str]:
    """The shipped ones that weigh every response by a preference of its own."""
    found = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONF / "solver").glob("*.yaml"))}
    return [name for name, node in found.items() if getattr(locate(node, "solver"), "takes_preferences", False)]
