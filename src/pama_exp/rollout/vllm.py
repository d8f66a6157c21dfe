"""vLLM as an engine in the training process: it loads the policy's weights before a rollout and sleeps after it.

Written against vLLM's documented interface. It needs a GPU; tests run it against a stand-in for vLLM only.

Legend: B responses.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Annotated, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pama_exp.config.ranges import Range, checked
from pama_exp.errors import UserError
from pama_exp.rollout.engine import Sampling, check_positions, end_tokens, quantised, responses_of, to_device
from pama_exp.types import PromptBatch, Rollout


class VLLMEngine:
    """Sampling by vLLM: paged attention and continuous batching.

    The log-probabilities in its rollouts come from vLLM's kernels. The update computes them again;
    `training.importance_cap` corrects for the difference.

    Args:
        model: the policy; LoRA adapters are merged into copies of the weights, and vLLM gets the copies.
        tokenizer: the policy's.
        memory_share: share of the GPU's memory for vLLM's weights and cache while it is awake, in (0, 1).

    Raises:
        UserError: if vllm is not installed, the model is quantised, or `memory_share` is not between 0 and 1.
    """

    requires = "vllm"
    takes_quantised = False

    @checked("rollout.engine")
    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        memory_share: Annotated[float, Range(above=0, below=1)] = 0.3,
    ) -> None:
        if getattr(model, "is_quantized", False):
            raise quantised("rollout=vllm")
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
        """Sample one response per prompt, in order, each with its own seed; see `RolloutEngine.generate`.

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
                logprobs=0,  # of the sampled token alone
            )
            for row in range(len(rows))
        ]
        outputs = engine.generate([{"prompt_token_ids": row} for row in rows], settings, use_tqdm=False)
        engine.sleep(level=2)  # weights and cache leave the GPU to the update
        responses = [list(output.outputs[0].token_ids) for output in outputs]
        lengths = torch.tensor([len(row) for row in responses], device=self.model.device)
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in responses], batch_first=True)
        ids, mask, texts = responses_of(self.tokenizer, prompts, padded.to(self.model.device), lengths, ends)
        finished = torch.tensor([row[-1] in ends for row in responses], device=self.model.device)
        token_log_probs = [
            torch.tensor([place[token].logprob for token, place in zip(row, output.outputs[0].logprobs, strict=True)])
            for row, output in zip(responses, outputs, strict=True)
        ]
        log_probs = torch.nn.utils.rnn.pad_sequence(token_log_probs, batch_first=True).to(self.model.device)
        return Rollout(prompts, ids, mask, finished, texts, log_probs=log_probs)

    def _awake(self) -> Any:
        """The vLLM engine, awake, with the policy's current weights."""
        if self._engine is None:
            self._engine = self._start()
        self._engine.wake_up(tags=["weights"])
        worker = self._engine.llm_engine.model_executor.driver_worker
        with plain_weights(self.model) as weights:
            worker.model_runner.model.load_weights(weights)
        self._engine.reset_prefix_cache()  # its contents were computed with the former weights
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
                logprobs_mode="processed_logprobs",  # at the sampling temperature
            )
        engine.sleep(level=2)
        return engine


def plain_weights(model: PreTrainedModel) -> closing[Generator[tuple[str, Tensor], None, None]]:
    """The weights under the names of the model without adapters, with LoRA merged into copies, one weight at a time.

    Merging in place and undoing it in 16 bits would change the base by rounding in every rollout, and the base is the
    reference.
    """
    return closing(_plain_weights(model))


def _plain_weights(model: PreTrainedModel) -> Generator[tuple[str, Tensor], None, None]:
    layers = dict(model.named_modules())
    for name, weight in model.state_dict().items():
        if ".lora_" in name:
            continue
        owner, _, last = name.partition(".base_layer.")
        merged = _merged(layers[owner], weight) if last == "weight" else weight
        yield name.removeprefix("base_model.model.").replace(".base_layer", ""), merged


def _merged(layer: Any, weight: Tensor) -> Tensor:
    """W + Σ (alpha / rank) B A, added up in float32."""
    additions = [layer.get_delta_weight(adapter).detach().float() for adapter in layer.active_adapters]
    return torch.stack([weight.float(), *additions]).sum(0).to(weight.dtype)
