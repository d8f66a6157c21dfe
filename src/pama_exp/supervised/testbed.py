"""Models trained once and kept in the cache: the SFT policy, and a Bradley-Terry reward model per objective."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from pama_exp.config.schema import Config, digest
from pama_exp.data.streams import random_state
from pama_exp.policy.loading import build_classifier, load_model, load_tokenizer, save
from pama_exp.supervised.artifacts import cached
from pama_exp.supervised.batch_losses import encode, pair_scores, preference_loss, response_loss, room
from pama_exp.supervised.fit import fit
from pama_exp.supervised.start_model import base_folder, random_model, read_tokenizer, tokenizer_source
from pama_exp.tracking.console import note
from pama_exp.world import FactWorld

# A model made by other versions of what computes is made again.
_VERSIONS = {name: version(name) for name in ("pama-exp", "torch", "transformers")}
_HELD_OUT = 512  # pairs that a reward model's accuracy is measured on


def start_folder(config: Config) -> Path:
    """What a run on text starts from: the base where it is pretrained, else random weights, in the cache.

    Raises:
        UserError: if the base cannot be had, or random weights have no tokenizer that fits them.
    """
    base = base_folder(config.model)
    if base is not None:
        return base
    tokenizer = read_tokenizer(tokenizer_source(config.model))

    def make(folder: Path) -> None:
        torch.manual_seed(random_state(config.sft.seed, 0, "sft-initialisation"))
        save(random_model(config.model, tokenizer), tokenizer, folder)

    key = {
        "model": _architecture(config),
        "tokenizer": digest(tokenizer.get_vocab(), 12),
        "seed": config.sft.seed,
        "versions": _VERSIONS,
    }
    return cached(Path(config.cache_dir), f"random-{config.model.name}", key, make)


def sft_policy(config: Config, world: FactWorld | None) -> Path:
    """The SFT policy's folder in Hugging Face format: the base where it is pretrained, else the cache's.

    Off the testbed there is nothing to train random weights on before `stage=sft`: they stay as they are.
    """
    if world is None:
        return start_folder(config)
    base = base_folder(config.model)
    if base is not None:
        return base

    def make(folder: Path) -> None:
        tokenizer = world.tokenizer()
        torch.manual_seed(random_state(config.sft.seed, 0, "sft-initialisation"))
        model = random_model(config.model, tokenizer)
        demonstrations = world.demonstrations(config.sft.examples, config.sft.seed)
        examples = encode(demonstrations, tokenizer, room(model, config.sft.max_length))

        def loss_of(rows: Sequence[int]) -> Tensor:
            return response_loss(model, tokenizer, [examples[i] for i in rows])

        fit(model, config.sft, "SFT policy", [len(ids) for _, ids in examples], loss_of)
        save(model, tokenizer, folder)

    return cached(Path(config.cache_dir), f"sft-{config.model.name}", _sft_key(config, world), make)


def reward_model(config: Config, world: FactWorld, program: str) -> Path:
    """The folder of the reward model that learns the gold program, in Hugging Face format, trained if missing.

    The trunk starts from the SFT policy. Loss: −log σ(r(x, y₊) − r(x, y₋)) (Bradley & Terry 1952).
    """
    settings = config.reward_model

    def make(folder: Path) -> None:
        folder_of_policy = sft_policy(config, world)
        policy = load_model(folder_of_policy, allow_pickle=config.model.allow_pickle)
        tokenizer = load_tokenizer(folder_of_policy)
        torch.manual_seed(random_state(settings.seed, 0, f"reward-initialisation-{program}"))
        model = build_classifier(policy, tokenizer)
        pairs = world.preference_pairs(program, settings.examples, settings.seed, label_noise=settings.label_noise)

        def loss_of(rows: Sequence[int]) -> Tensor:
            return preference_loss(model, tokenizer, [pairs[i] for i in rows])

        lengths = [len(chosen.split()) + len(rejected.split()) for _, chosen, rejected in pairs]
        fit(model, settings, f"Reward model: {program}", lengths, loss_of)
        held_out = world.preference_pairs(program, _HELD_OUT, settings.seed + 1, label_noise=0.0)
        with torch.no_grad():
            chosen, rejected = pair_scores(model, tokenizer, held_out)
        accuracy = (chosen > rejected).float().mean().item()
        note(f"Reward model {program}: {accuracy:.1%} of {_HELD_OUT} held-out pairs ranked as the gold program does.")
        save(model, tokenizer, folder)
        (folder / "accuracy.json").write_text(json.dumps({"held_out_accuracy": accuracy, "pairs": _HELD_OUT}))

    key = {
        "program": program,
        "world": world.fingerprint,
        "policy": config.model.path or config.model.id or digest(_sft_key(config, world), 12),
        "reward_model": asdict(settings),
        "versions": _VERSIONS,
    }
    return cached(Path(config.cache_dir), f"reward-{config.model.name}-{program}", key, make)


def _sft_key(config: Config, world: FactWorld) -> dict[str, object]:
    model = _architecture(config)
    return {"world": world.fingerprint, "model": model, "sft": asdict(config.sft), "versions": _VERSIONS}


def _architecture(config: Config) -> dict[str, object]:
    return {key: getattr(config.model, key) for key in ("architecture", "config", "dtype")}
