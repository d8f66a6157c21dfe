"""Decoding by replay: what is recorded of a pass, played again without Python, says what the engine says without."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from pama_exp.policy.policy import Policy
from pama_exp.rollout import graphs
from pama_exp.rollout.engine import Sampling
from pama_exp.rollout.fast import FastEngine

WORDS = tiny.tokenizer()
READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)  # a GPU would be waited for


class Tape(TorchDispatchMode):
    """A CUDA graph's part on a processor: operations on given tensors, played again on what these then hold."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        assert function not in READS
        result = function(*arguments, **(keywords or {}))
        self.operations.append((function, arguments, keywords or {}, result))
        return result

    def play(self):
        for function, arguments, keywords, result in self.operations:
            again = function(*arguments, **keywords)
            olds, news = (x if isinstance(x, tuple) else (x,) for x in (result, again))
            for old, new in zip(olds, news, strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():  # a view is its tensor's already
                    old.copy_(new)


@pytest.fixture
def tapes(monkeypatch):
    """Every capture from now on is by tape."""
    made = []

    def capture(function, device):
        tape = Tape()
        with tape:
            result = function()
        made.append(tape)

        def replay():
            with torch.no_grad():
                tape.play()
            return result

        return replay

    monkeypatch.setattr(graphs, "capture", capture)
    return made


def assert_the_same(found, wanted):
    assert torch.equal(found.response_ids, wanted.response_ids)
    assert torch.equal(found.finished, wanted.finished)
    said = wanted.response_mask
    torch.testing.assert_close(found.log_probs, wanted.log_probs, atol=tiny.ROUNDING, rtol=0)
    torch.testing.assert_close(found.states[said], wanted.states[said], atol=1e-4, rtol=0)


@pytest.mark.parametrize("rows_at_once", [None, 5])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_replays_say_what_passes_say(architecture, rows_at_once, tapes):
    model = tiny.language_model(architecture)
    prompts = tiny.prompts(["a b c", "d", "e f g h i", "d", "b a", "a b c", "k", "l m"])
    plain, replayed = (FastEngine(model, WORDS, rows_at_once, graphs=chosen) for chosen in (False, True))
    wanted, found = (engine.generate(prompts, Sampling(24, temperature=2.0), seed=5) for engine in (plain, replayed))
    assert len(set(wanted.response_mask.sum(1).tolist())) > 3  # rows left the cache at several times
    assert_the_same(found, wanted)
    sizes = [8] if rows_at_once is None else [5, 3]
    assert 0 < len(tapes) <= sum(1 + int(math.log2(size)) for size in sizes)  # once, and whenever half the rows left


def test_without_a_gpu_the_same_passes_are_made_as_they_are():
    model = tiny.language_model("llama")
    wanted, found = (
        FastEngine(model, WORDS, graphs=chosen).generate(tiny.prompts(), Sampling(16), seed=5)
        for chosen in (False, True)
    )
    assert_the_same(found, wanted)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_policy_told_its_preference_is_told_in_replays(architecture, tapes):
    policy = Policy(tiny.language_model(architecture), 2, conditioned_on=2).eval()
    with torch.no_grad():
        policy.preference_map.weight.normal_(0, 3.0, generator=torch.Generator().manual_seed(4))
    asked = torch.rand(8, 2, generator=torch.Generator().manual_seed(1))
    prompts = replace(tiny.prompts(["a b c", "d", "e f g h i", "b a"] * 2), preferences=asked)
    found = []
    for chosen in (False, True):
        engine = FastEngine(policy.model, WORDS, graphs=chosen)
        engine.shift_of = policy.shift_of
        found.append(engine.generate(prompts, Sampling(16), seed=3))
    assert_the_same(found[1], found[0])
    assert tapes
