"""verl's registry with the solvers in it, and what they make of batches, compared with this project's own step."""

import importlib.util
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from tensordict import NonTensorData, NonTensorStack

pytest.importorskip("verl")
pytest.importorskip("verl.trainer.ppo.ray_trainer", exc_type=ImportError)  # what verl itself needs may be missing

import verl
from verl import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos, ray_trainer

from commands import ROOT, environment
from pama_exp.errors import UserError
from pama_exp.integrations import verl as ours
from pama_exp.integrations.combining import no_gradients
from pama_exp.integrations.named_solvers import named_solver
from pama_exp.rl import advantages
from pama_exp.rl.masks import masked_mean

pytestmark = pytest.mark.filterwarnings("default")  # verl's own and its libraries'
KEYS = ["helpful", "brief", "safe"]
WEIGHTS = [0.5, 0.3, 0.2]
MOVES = {"rvpo": {"anneal_steps": 50}, "soft-noon": {"anneal_steps": 50}}
COMPARED = sorted(set(ours.NAMES))
REFUSED = ["mgda", "mgda-ub", "pcgrad", "cagrad", "gradnorm", "gapo", "nash-mtl", "dynamic-hv"]


def settings(**given):
    return {"gdpo_reward_keys": KEYS, "gdpo_reward_weights": WEIGHTS, "norm_adv_by_std_in_grpo": True} | given


def batch(seed, sizes):
    """Rows of several prompts, shuffled, with answers of all lengths."""
    generator = torch.Generator().manual_seed(seed)
    uid = np.repeat([f"prompt-{i}" for i in range(len(sizes))], sizes)
    order = torch.randperm(len(uid), generator=generator)
    scores = torch.randn(3, len(uid), generator=generator) * torch.tensor([[1.0], [5.0], [0.1]])
    length = torch.randint(1, 8, (len(uid),), generator=generator)
    mask = (torch.arange(7) < length[:, None]).long()
    return scores[:, order], uid[order.numpy()], mask


def estimated(name, scores, uid, mask, config, keys=KEYS, **given):
    components = {key: row.numpy() for key, row in zip(keys, scores, strict=True)}
    estimator = core_algos.get_adv_estimator_fn(name)
    rewards = torch.zeros(mask.shape)
    return estimator(
        token_level_rewards=rewards, response_mask=mask, index=uid, config=config, non_tensor_batch=components, **given
    )[0]


def by_this_project(solver, scores, uid, mask, is_first):
    """The step of `training/alignment.py` from scores to what the policy learns from, each group by itself."""
    order = np.argsort(uid, kind="stable")
    scores, mask = scores[:, order], mask[order].bool()
    if is_first and solver.needs_calibration:
        solver.calibrate(scores, scores)
    solver.observe(scores)
    channels = solver.on_rewards(scores)
    _, sizes = np.unique(uid, return_counts=True)
    parts = [advantages.group_standardise(part, part.shape[1]) for part in channels.split(sizes.tolist(), dim=1)]
    own = advantages.broadcast_to_tokens(torch.cat(parts, 1), mask)
    combined = solver.on_advantages(own, mask)
    weights = solver.on_losses(-masked_mean(combined, mask, (-2, -1)), no_gradients(solver, "verl"))
    total = torch.einsum("k,kbt->bt", weights, combined) if len(combined) > 1 else combined[0]
    return torch.where(mask, total, 0)[np.argsort(order)]


def test_one_import_lists_the_solvers_in_verls_registry():
    registry = core_algos.ADV_ESTIMATOR_REGISTRY
    assert {"pama", "linear", "tchebycheff", "rvpo", "ctwa", "dvao", "uw", "lagrangian"} <= set(registry)
    assert not set(REFUSED) & set(registry)
    assert registry["gdpo"] is core_algos.compute_gdpo_outcome_advantage


@pytest.mark.parametrize("name", COMPARED)
def test_every_solver_is_as_here_on_fifty_batches(name):
    """With groups of unequal sizes where the method has any meaning for them, and its state carried along."""
    core_algos.get_adv_estimator_fn(name)._combiners.clear()
    config = settings(solver=MOVES.get(name))
    own = named_solver(name, WEIGHTS, 4, MOVES.get(name))
    is_ragged = not hasattr(own, "group_size")
    draw = np.random.default_rng(0)
    for step in range(50):
        sizes = draw.integers(2, 7, size=4) if is_ragged else np.full(4, 4)
        scores, uid, mask = batch(step, sizes)
        found = estimated(name, scores, uid, mask, config)
        expected = by_this_project(own, scores, uid, mask, step == 0)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.abs().max() > 0.01


def test_linear_on_rewards_is_verls_grpo_of_the_sum():
    scores, uid, mask = batch(3, [4, 4, 4])
    found = estimated("linear", scores, uid, mask, settings(solver={"space": "reward"}))
    total = (torch.tensor(WEIGHTS) @ scores)[:, None] * torch.nn.functional.one_hot(mask.sum(1) - 1, 7)
    verls, _ = core_algos.compute_grpo_outcome_advantage(total, mask, uid)
    torch.testing.assert_close(found, verls, rtol=1e-4, atol=1e-4)  # verl adds 1e-6 to the deviation


def proto(scores, uid, mask, kl=None):
    last = torch.nn.functional.one_hot(mask.sum(1) - 1, 7) * scores.sum(0)[:, None]
    tensors = {
        "token_level_scores": last,
        "response_mask": mask,
        "token_level_rewards": last - (0 if kl is None else kl),
    }
    components = {key: row.numpy() for key, row in zip(KEYS, scores, strict=True)}
    return DataProto.from_dict(tensors=tensors, non_tensors={"uid": uid.astype(object), **components})


def test_verls_trainer_hands_the_components_over():
    scores, uid, mask = batch(5, [4, 3, 5])
    config = AlgoConfig(adv_estimator="pama", gdpo_reward_keys=KEYS, gdpo_reward_weights=WEIGHTS)
    data = ray_trainer.compute_advantage(proto(scores, uid, mask), adv_estimator="pama", config=config)
    torch.testing.assert_close(data.batch["advantages"], estimated("pama", scores, uid, mask, settings()))
    assert data.batch["advantages"].abs().max() > 0.01


def test_what_the_queue_of_a_v1_trainer_holds_is_handed_over():
    scores, uid, mask = batch(9, [4, 4])
    rows = [{"reward_extra_info": dict(zip(KEYS, column, strict=True))} for column in scores.T.tolist()]
    extra = NonTensorStack(*[NonTensorData(row) for row in rows])
    queue = SimpleNamespace(keys=list("abcdefgh"), partition_id="train")
    trainer = SimpleNamespace(config=SimpleNamespace(algorithm=AlgoConfig(adv_estimator="pama", gdpo_reward_keys=KEYS)))

    def fetch(keys, partition_id, select_fields):
        assert (keys, partition_id, select_fields) == (queue.keys, "train", ["extra_fields"])
        return {"extra_fields": extra}

    def compute(trainer, batch):
        data = proto(scores, uid, mask).select(non_tensor_batch_keys=["uid"])
        return ray_trainer.compute_advantage(data, adv_estimator="pama", config=trainer.config.algorithm)

    data = ours._fetching_components(compute, fetch)(trainer, queue)
    expected = estimated("pama", scores, uid, mask, settings(gdpo_reward_weights=None))
    torch.testing.assert_close(data.batch["advantages"], expected)
    with pytest.raises(UserError, match="returns no 'helpful'"):
        compute(trainer, queue)


def test_a_kl_in_the_reward_is_charged_to_every_objective():
    scores, uid, mask = batch(6, [4, 4])
    kl = torch.rand(mask.shape) * mask
    config = settings(use_kl_in_reward=True)
    data = ray_trainer.compute_advantage(proto(scores, uid, mask, kl), adv_estimator="linear", config=config)
    charged = estimated("linear", scores - kl.sum(1), uid, mask, settings())
    torch.testing.assert_close(data.batch["advantages"], charged, rtol=1e-4, atol=1e-5)
    assert (charged - estimated("linear", scores, uid, mask, settings())).abs().max() > 0.01


def test_leave_one_out_where_verl_is_told_not_to_divide_by_the_deviation():
    scores, uid, mask = batch(7, [3, 3])
    found = estimated("linear", scores, uid, mask, settings(norm_adv_by_std_in_grpo=False))
    order = np.argsort(uid, kind="stable")
    own = advantages.leave_one_out(scores[:, order], 3)[:, np.argsort(order)]
    torch.testing.assert_close(found, (torch.tensor(WEIGHTS) @ own)[:, None] * mask)


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        ("pama", {"gdpo_reward_keys": None}, "is not told its rewards"),
        ("pama", {"gdpo_reward_keys": ["helpful", "witty"]}, "returns no 'witty'"),
        ("pama", {"solver": {"granularty": "token"}}, "granularty"),
        ("pama", {"gdpo_reward_weights": [1.0]}, "weights for 1 objectives"),
        ("rvpo", {}, "is not told its anneal_steps"),
        ("gd2po", {"norm_adv_by_std_in_grpo": False}, "not defined for the advantage"),
    ],
)
def test_settings_that_do_not_fit_are_told_in_two_lines(name, config, says):
    scores, uid, mask = batch(8, [4, 4])
    with pytest.raises(UserError, match=says):
        estimated(name, scores, uid, mask, settings(**config))


@pytest.mark.parametrize("script", ["one_node.sh", "many_nodes.sh"])
def test_the_recipes_commands_compose_with_verls_configuration(tmp_path, script):
    """The scripts are run with a `python` that writes down what it is given."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\n')
    python.chmod(0o755)
    given = {"MODEL": "model", "TRAIN": "a.parquet", "TEST": "b.parquet", "SOLVER": "rvpo"}
    nodes = {"NODES": "4"} if script == "many_nodes.sh" else {}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = [str(ROOT / "examples" / "verl" / script), "+algorithm.solver.anneal_steps=100"]
    subprocess.run(words, env=environment(**given, **nodes, **path), check=True)
    module, *overrides = (tmp_path / "words").read_text().splitlines()[1:]
    assert module == "verl.trainer.main_ppo"
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        config = compose("ppo_trainer", overrides)
    own = ours.SolverEstimator("rvpo")._combiner(config.algorithm, list(config.algorithm.gdpo_reward_keys), 8).solver
    assert own.k.steps_to_last == 100
    assert config.trainer.nnodes == int(nodes.get("NODES", 1))
    source = config.reward.custom_reward_function
    spec = importlib.util.spec_from_file_location("rewards_of_the_recipe", source.path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, source.name)(data_source="x", solution_str="so so good", ground_truth=None)
    assert set(config.algorithm.gdpo_reward_keys) <= set(found)
    assert found["varied"] == pytest.approx(2 / 3)
