"""vLLM as an engine, in this process and on this GPU: takes the policy's weights before a rollout and sleeps after it.

Written against vLLM's documented interface; it needs a GPU, and no test here runs it.

Legend: B responses.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.errors import UserError
from pama_exp.rollout.engine import Sampling, check_positions, end_tokens, responses_of, to_device
from pama_exp.types import PromptBatch, Rollout


class VLLMEngine:
    """Paged attention and continuous batching; log-probabilities are the update's to compute, in its own kernels.

    Args:
        model: the policy; LoRA adapters are merged into the weights that vLLM is given.
        tokenizer: the policy's.
        memory_share: of the GPU, for vLLM's weights and cache while it is awake.

    Raises:
        UserError: if vllm is not installed, or `memory_share` is not between 0 and 1.
    """

    requires = "vllm"

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, memory_share: float = 0.3) -> None:
        if not 0 < memory_share < 1:
            raise UserError(f"rollout.engine.memory_share={memory_share}.", "It lies between 0 and 1.")
        try:
            self.vllm = importlib.import_module("vllm")
        except ImportError:
            raise UserError(
                "rollout=vllm needs vllm.", "pip install 'pama-exp[vllm]', on a machine with a GPU."
            ) from None
        self.model, self.tokenizer, self.memory_share = model, tokenizer, memory_share
        self._engine: Any = None

    @torch.no_grad()
    def generate(self, prompts: PromptBatch, sampling: Sampling, seed: int | Sequence[int]) -> Rollout:
        """See `RolloutEngine`. Each response has a seed of its own, so that batching does not decide what is drawn.

        Raises:
            UserError: if prompt and response do not fit the model's positions.
        """
        check_positions(self.model, prompts, sampling)
        prompts = to_device(prompts, self.model.device)
        engine = self._awake()
        ends = end_tokens(self.model, self.tokenizer)
        rows = [row[mask].tolist() for row, mask in zip(prompts.input_ids.cpu(), prompts.mask.cpu(), strict=True)]
        settings = [
            self.vllm.SamplingParams(
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                seed=seed + row if isinstance(seed, int) else seed[row],
                stop_token_ids=ends,
                detokenize=False,
            )
            for row in range(len(rows))
        ]
        outputs = engine.generate([{"prompt_token_ids": row} for row in rows], settings, use_tqdm=False)
        engine.sleep(level=2)  # weights and cache leave the GPU to the update
        said = [list(output.outputs[0].token_ids) for output in outputs]
        lengths = torch.tensor([len(row) for row in said], device=self.model.device)
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in said], batch_first=True)
        ids, mask, texts = responses_of(self.tokenizer, prompts, padded.to(self.model.device), lengths, ends)
        finished = torch.tensor([row[-1] in ends for row in said], device=self.model.device)
        return Rollout(prompts, ids, mask, finished, texts)

    def _awake(self) -> Any:
        """The engine with the policy's present weights."""
        if self._engine is None:
            self._engine = self._start()
        self._engine.wake_up(tags=["weights"])
        worker = self._engine.llm_engine.model_executor.driver_worker
        with plain_weights(self.model) as weights:
            worker.model_runner.model.load_weights(weights)
        self._engine.reset_prefix_cache()  # what it holds was computed with the former weights
        self._engine.wake_up(tags=["kv_cache"])
        return self._engine

    def _start(self) -> Any:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over within this process
        with tempfile.TemporaryDirectory() as folder:
            self.model.config.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            engine = self.vllm.LLM(
                model=folder,
                load_format="dummy",  # real ones follow before the first token
                dtype=str(self.model.dtype).removeprefix("torch."),
                gpu_memory_utilization=self.memory_share,
                enable_sleep_mode=True,
            )
        engine.sleep(level=2)
        return engine


@contextmanager
def plain_weights(model: Any) -> Iterator[Iterator[tuple[str, Tensor]]]:
    """The weights under the names of the model without adapters; LoRA's are merged in for as long as this lasts."""
    has_adapters = hasattr(model, "merge_adapter")
    if has_adapters:
        model.merge_adapter()
    try:
        names = (
            (name.removeprefix("base_model.model.").replace(".base_layer", ""), w)
            for name, w in model.state_dict().items()
        )
        yield ((name, weight) for name, weight in names if ".lora_" not in name)
    finally:
        if has_adapters:
            model.unmerge_adapter()
