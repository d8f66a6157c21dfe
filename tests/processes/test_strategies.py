"""Two processes make of a global batch what one makes: DDP and FSDP2 over gloo, on the processor."""

import json

import pytest
import torch

from commands import FAST, composed, learning, run_config

pytestmark = pytest.mark.slow("each case is a run in two processes and one in one")

SOLVERS = {
    "pama": {"_target_": "pama_exp.solvers.pama.PAMA", "granularity": "batch"},
    "linear": {"_target_": "pama_exp.solvers.scalarizers.Linear", "space": "reward"},
    "mgda": {"_target_": "pama_exp.solvers.gradient.MGDA"},
    "mgda-ub": {"_target_": "pama_exp.solvers.gradient.MGDAUB"},
}
# Two mini-batches in micro-batches, statistics that travel from step to step, an early stop that both must agree on.
# Adam turns a gradient that is rounding alone into a step of the learning rate's size, hence not the largest of rates.
TRAINING = {
    "mini_batch_size": 8,
    "micro_batch_tokens": 200,
    "target_kl": 2e-6,
    "kl.target": 0.5,
    "learning_rate": 1e-4,
}


def cases():
    for strategy in ("ddp", "fsdp"):
        for name, solver in SOLVERS.items():
            yield f"{strategy}-{name}", {"strategy": strategy, "solver": solver, "training": TRAINING}
        told = {"name": "embedding", "learning_rate": 1e-3}
        linear = SOLVERS["linear"]
        yield f"{strategy}-told", {"strategy": strategy, "solver": linear, "training": TRAINING, "conditioning": told}
    mgda = {"solver": SOLVERS["mgda"]}
    yield "ddp-sketch", {"strategy": "ddp", "training": TRAINING | {"gramian.target": "sketch"}, **mgda}
    frugal = {"activation_checkpointing": True, "cpu_offload": True}
    one = TRAINING | {"gramian.hold": "one"}
    yield "fsdp-frugal", {"strategy": "fsdp", "training": one, "trainer": frugal, **mgda}


CASES = dict(cases())


def cases_for(count):
    """The same work; one process has nothing to split, and needs no case of each strategy."""
    if count == 2:
        return CASES
    return {name: case | {"trainer": {"strategy": "single"}} for name, case in CASES.items() if is_first(name)}


def is_first(name):
    return alone(name) == name


def alone(name):
    """The case of one process that this one must equal."""
    return {"fsdp-frugal": "ddp-mgda"}.get(name, name.replace("fsdp-", "ddp-"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shared_cache):
    """The folder and the findings of one process and of two."""
    found = {}
    for count in (1, 2):
        folder = tmp_path_factory.mktemp(f"processes-{count}")
        config = composed(
            *FAST,
            "trainer=ddp",
            "trainer.accelerator=cpu",
            "trainer.precision=32-true",
            f"trainer.devices={count}",
            "objectives.helpful.normaliser=running",
            # Smooth: a ReLU whose input is 0 but for rounding has a gradient or none, by the order of sums.
            "+model.config.activation_function=gelu",
            f"output={folder}",
            f"cache_dir={shared_cache}",
        )
        config.stage = {"_target_": "shared_stage.run", "name": "shared", "shared": True, "cases": cases_for(count)}
        run_config(config)
        found[count] = (folder, json.loads((folder / "result.json").read_text()))
    return found


@pytest.mark.parametrize("case", CASES)
def test_both_processes_hold_the_same_parameters(runs, case):
    assert runs[2][1][case]["apart"] == 0.0


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_where_one_does(runs, case):
    one, two = torch.load(runs[1][0] / f"{alone(case)}.pt"), torch.load(runs[2][0] / f"{case}.pt")
    for expected, found in zip(one, two, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_every_metric_is_that_of_the_global_batch(runs, case):
    one, two = runs[1][1][alone(case)]["metrics"], runs[2][1][case]["metrics"]
    assert two["policy/updates"] < 4  # the KL stopped it early
    for name in learning([one])[0]:
        assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("case", CASES)
def test_the_bill_counts_every_process(runs, case):
    one, two = runs[1][1][alone(case)]["bill"], runs[2][1][case]["bill"]
    for name in ("prompts", "tokens", "reward_calls"):
        assert two[name] == one[name], name
    if case != "fsdp-frugal":  # which passes backwards more often, so as to hold less
        assert two["backwards"] == one["backwards"]


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_of_several_processes_goes_on_bit_for_bit(runs, case):
    assert runs[2][1][case]["resumed"] == 0.0
