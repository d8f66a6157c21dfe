"""`stage=mod`: multi-objective decoding, which mixes the logits of single-objective experts.

Source: Shi et al. 2024, "Decoding-time language model alignment with multiple objectives", arXiv 2406.18853.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pama_exp.assembly.experts import experts_config, experts_result, single_objective_experts
from pama_exp.assembly.module import build_alignment, held_out
from pama_exp.assembly.setup import Setup, resolve
from pama_exp.config.schema import Config
from pama_exp.errors import UserError
from pama_exp.policy.loading import load_model, load_tokenizer
from pama_exp.policy.policy import freeze
from pama_exp.rollout.mixture import check_mixable, mixed_engine
from pama_exp.stages.soup import evaluate_mixes
from pama_exp.tracking.console import note
from pama_exp.tracking.record import RunRecord
from pama_exp.training import shared_rollout
from pama_exp.training.evaluation import Evaluation, answers, evaluate
from pama_exp.training.operating_points import EVALUATION_SEED


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Evaluate the mixture with logits Σ λᵉ zᵉ on the test prompts for every λ of the grid.

    The cost (`bill`) is that of training all experts. `serving` counts the models held and the forward passes while
    decoding: each token takes a pass of every expert.

    Raises:
        UserError: unless `mod.runs` are two or more finished runs that differ only in their one objective and share a
            vocabulary, or if the engine cannot mix logits.
    """
    by_transformers, rows_at_once = _engine(setup.config)
    experts = single_objective_experts(setup.config.mod.runs, "mod.runs")
    of_experts = resolve(experts_config(experts, setup.config))
    folders = [expert.folder / "policy" for expert in experts.values()]
    module = build_alignment(of_experts, folders[0])
    stream = held_out(of_experts, module, "test", of_experts.config.data.evaluation_prompts)
    models = [freeze(load_model(folder)).to(setup.device) for folder in folders]
    tokenizers = [load_tokenizer(folder) for folder in folders]
    check_mixable(models, tokenizers)
    tokens = 0

    def evaluate_at(mix: Sequence[float]) -> Evaluation:
        nonlocal tokens
        engine = mixed_engine(models, tokenizers[0], mix, by_transformers, rows_at_once)
        if tokens == 0 and engine.reason is not None:  # the first mixture
            note(f"rollout=hf: {engine.reason}.")
        generate = shared_rollout.answering(engine, of_experts.sampling, setup.device)
        evaluation = evaluate(module.objectives, answers(generate, stream, EVALUATION_SEED))
        tokens += int(evaluation.lengths.sum())
        return evaluation

    points = evaluate_mixes(of_experts, record, setup.config.mod.grid, "mod", "Mixing", evaluate_at)
    count = len(models)
    serving = {"models": count, "passes_per_token": count, "tokens": tokens, "passes": count * tokens}
    return experts_result(of_experts.config, record, experts, points) | {"serving": serving}


def _engine(config: Config) -> tuple[bool, int | None]:
    """Whether to use the engine of transformers, and the number of rows that the fast engine decodes at a time.

    Raises:
        UserError: for an engine that does not give its logits.
    """
    node = config.rollout.engine
    name = str(node.get("_target_", "")).rpartition(".")[2]
    if name not in ("choose_engine", "FastEngine", "HFEngine"):
        raise UserError(
            "stage=mod mixes logits, which this rollout engine does not hand out.", "Set rollout=fast or hf."
        )
    return name == "HFEngine", node.get("rows_at_once")
