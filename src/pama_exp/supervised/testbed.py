"""The testbed's SFT policy and its reward models, one per gold program, trained once and kept in the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from pama_exp.config.naming import digest
from pama_exp.config.schema import FitConfig, ModelConfig
from pama_exp.data.streams import random_state
from pama_exp.parallel import collectives
from pama_exp.policy.loading import build_classifier, load_model, load_tokenizer, save
from pama_exp.supervised.artifacts import cached, place
from pama_exp.supervised.batch_losses import encode, max_tokens, pair_scores, preference_loss, response_loss
from pama_exp.supervised.fit import fit
from pama_exp.supervised.side_by_side import beside
from pama_exp.supervised.start_model import StartModel
from pama_exp.tracking.console import note, phase
from pama_exp.world import FactWorld

# Part of every key: models of other versions are trained again.
_VERSIONS = {name: version(name) for name in ("pama-exp", "torch", "transformers")}
_HELD_OUT = 512  # pairs on which a reward model's accuracy is measured
_ACCURACY = "accuracy.json"
_LONG = 200  # steps of a training from which a process of its own, which takes seconds to start, pays


@dataclass(frozen=True)
class Testbed:
    """FactWorld's SFT policy and reward models.

    Attributes:
        world: provides demonstrations and preference pairs.
        start: the model that the SFT policy starts from.
        sft: settings of the SFT policy's training.
        rewards: settings of the reward models' training.
        cache: the folder of trained models.
    """

    world: FactWorld
    start: StartModel
    sft: FitConfig
    rewards: FitConfig
    cache: Path

    def policy(self) -> Path:
        """The SFT policy's folder in Hugging Face format: that of a pretrained start model, else one that is trained.

        Raises:
            UserError: if the cache cannot be written or is damaged.
        """
        if self.start.folder is not None:
            return self.start.folder

        def make(folder: Path) -> None:
            tokenizer = self.start.tokenizer
            torch.manual_seed(random_state(self.sft.seed, 0, "sft-initialisation"))
            model = self.start.random_model()
            demonstrations = self.world.demonstrations(self.sft.examples, self.sft.seed)
            examples = encode(demonstrations, tokenizer, max_tokens(model, self.sft.max_length))

            def loss_of(rows: Sequence[int]) -> Tensor:
                return response_loss(model, tokenizer, [examples[i] for i in rows])

            fit(model, self.sft, "SFT policy", [len(ids) for _, ids in examples], loss_of)
            save(model, tokenizer, folder)

        return cached(self.cache, f"sft-{self.start.model.name}", self._sft_key(), make)

    def reward_models(self, programs: Sequence[str]) -> list[Path]:
        """The folders of the gold programs' reward models in Hugging Face format. Those the cache lacks are trained.

        Training starts from the SFT policy. Loss: −log σ(r(x, y₊) − r(x, y₋)) (Bradley & Terry 1952). Several long
        trainings run side by side, in a process each, as far as there are threads: their batches are too small for one
        of them to use many threads well.

        Raises:
            UserError: if the cache cannot be written or is damaged.
        """
        missing = [each for each in dict.fromkeys(programs) if not self._place(each).exists()]
        count = min(len(missing), torch.get_num_threads())
        if count > 1 and self.rewards.steps >= _LONG and collectives.is_main():
            self.policy()
            note(f"Training {len(missing)} reward models, {count} at a time.")
            others = [missing[first::count] for first in range(1, count)]
            with beside([partial(self._train, names) for names in others]) as processes:
                self._train(missing[::count])
                for names, process in zip(others, processes, strict=True):
                    with phase(f"Reward model: {', '.join(names)}"):
                        process.wait()
            for name in (name for names in others for name in names):
                if self._place(name).exists():
                    _say_accuracy(name, self._place(name))
        return [self._reward_model(each) for each in programs]

    def _train(self, programs: Sequence[str]) -> None:
        for program in programs:
            self._reward_model(program)

    def _reward_model(self, program: str) -> Path:
        m, settings = self.start.model, self.rewards

        def make(folder: Path) -> None:
            policy_folder = self.policy()
            policy, tokenizer = load_model(policy_folder, allow_pickle=m.allow_pickle), load_tokenizer(policy_folder)
            torch.manual_seed(random_state(settings.seed, 0, f"reward-initialisation-{program}"))
            model = build_classifier(policy, tokenizer)
            pairs = self.world.preference_pairs(
                program, settings.examples, settings.seed, label_noise=settings.label_noise
            )

            def loss_of(rows: Sequence[int]) -> Tensor:
                return preference_loss(model, tokenizer, [pairs[i] for i in rows])

            lengths = [len(chosen.split()) + len(rejected.split()) for _, chosen, rejected in pairs]
            fit(model, settings, f"Reward model: {program}", lengths, loss_of)
            held_out = self.world.preference_pairs(program, _HELD_OUT, settings.seed + 1, label_noise=0.0)
            with torch.no_grad():
                chosen, rejected = pair_scores(model, tokenizer, held_out)
            accuracy = (chosen > rejected).float().mean().item()
            save(model, tokenizer, folder)
            (folder / _ACCURACY).write_text(json.dumps({"held_out_accuracy": accuracy, "pairs": _HELD_OUT}))
            _say_accuracy(program, folder)

        return cached(self.cache, f"reward-{m.name}-{program}", self._reward_key(program), make)

    def _place(self, program: str) -> Path:
        return place(self.cache, f"reward-{self.start.model.name}-{program}", self._reward_key(program))

    def _reward_key(self, program: str) -> dict[str, object]:
        m = self.start.model
        return {
            "program": program,
            "world": self.world.fingerprint,
            "policy": m.path or m.id or digest(self._sft_key(), 12),
            "reward_model": asdict(self.rewards),
            "versions": _VERSIONS,
        }

    def _sft_key(self) -> dict[str, object]:
        return {
            "world": self.world.fingerprint,
            "model": _architecture(self.start.model),
            "sft": asdict(self.sft),
            "versions": _VERSIONS,
        }


def _say_accuracy(program: str, folder: Path) -> None:
    found = json.loads((folder / _ACCURACY).read_text())
    note(
        f"Reward model {program}: {found['held_out_accuracy']:.1%} of {found['pairs']} held-out pairs ranked as the "
        "gold program does."
    )


def random_weights(start: StartModel, cache: Path, seed: int) -> Path:
    """The folder of a model with random weights, which training on text starts from, in the cache.

    Raises:
        UserError: if the cache cannot be written or is damaged.
    """

    def make(folder: Path) -> None:
        torch.manual_seed(random_state(seed, 0, "sft-initialisation"))
        save(start.random_model(), start.tokenizer, folder)

    key = {
        "model": _architecture(start.model),
        "tokenizer": digest(start.tokenizer.get_vocab(), 12),
        "seed": seed,
        "versions": _VERSIONS,
    }
    return cached(cache, f"random-{start.model.name}", key, make)


def _architecture(model: ModelConfig) -> dict[str, object]:
    return {key: getattr(model, key) for key in ("architecture", "config", "dtype")}
