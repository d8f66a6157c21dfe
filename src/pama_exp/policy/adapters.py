"""Low-rank additions to a frozen language model (LoRA, Hu et al. 2021), switched off, saved and merged."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pama_exp.errors import UserError, suggest


class Adapter:
    """W x + (alpha / rank) B A x in place of W x, in the target layers of `model`, which is changed and frozen.

    Args:
        model: the base; its class stays what it is.
        targets: names of linear layers; None: every linear layer of the trunk.
        rank: rows of A.
        alpha: the additions' scale is alpha / rank.
        dropout: on x, in training mode.

    Raises:
        UserError: if a target is no linear layer of the trunk, or peft is not installed.
    """

    def __init__(
        self, model: PreTrainedModel, targets: Sequence[str] | None, rank: int, alpha: float, dropout: float = 0.0
    ) -> None:
        peft = _peft()
        names = check_targets(model, targets)
        transposed = any(isinstance(m, Conv1D) and n.rpartition(".")[2] in names for n, m in model.named_modules())
        settings = peft.LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=names,
            fan_in_fan_out=transposed,
            task_type="CAUSAL_LM",
        )
        self.model = model
        with quiet():
            self._wrapped = peft.get_peft_model(model, settings)

    @classmethod
    def read(cls, model: PreTrainedModel, folder: str | Path) -> Adapter:
        """The adapter that `save` wrote, on its base, to be trained on or told by.

        Raises:
            UserError: if the folder's does not fit the model.
        """
        made = cls.__new__(cls)
        made.model = model
        try:
            with quiet():
                made._wrapped = _peft().PeftModel.from_pretrained(model, str(folder), is_trainable=True)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"The adapter in {folder} cannot be read ({reason}).", "Is the folder whole?") from None
        return made

    def gates(self) -> list[nn.Linear]:
        """The first matrices A of all adapted layers, in the model's order."""
        return gates_of(self.model)

    @contextmanager
    def off(self) -> Iterator[PreTrainedModel]:
        """The base alone, for as long as the block lasts: the reference, without a second copy."""
        self._wrapped.base_model.disable_adapter_layers()
        try:
            yield self.model
        finally:
            self._wrapped.base_model.enable_adapter_layers()

    def save(self, folder: str | Path) -> None:
        """The additions alone, in PEFT's format; they name the folder or id of their base."""
        self._wrapped.save_pretrained(str(folder), save_embedding_layers=False)  # they are never among the targets

    def merge(self) -> PreTrainedModel:
        """The model with the additions folded into its weights; this adapter is then spent."""
        return self._wrapped.merge_and_unload()


def gates_of(model: nn.Module) -> list[nn.Linear]:
    """The first matrices A of a model's LoRA layers, in the model's order."""
    layers = [getattr(module, "lora_A", None) for module in model.modules()]
    gates = [gate for layer in layers if isinstance(layer, nn.ModuleDict) for gate in layer.children()]
    return [gate for gate in gates if isinstance(gate, nn.Linear)]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning that peft calls a property of transformers by its former name: no user can act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        yield


def check_targets(model: PreTrainedModel, targets: Sequence[str] | None) -> list[str]:
    """The names of the layers to adapt, every linear layer of the trunk where None.

    Raises:
        UserError: for a name that matches none of them, with those that would.
    """
    valid = linear_names(model)
    for name in targets or ():
        if name not in valid:
            raise UserError(
                f"adapter.targets: '{name}' is no linear layer of the {model.config.model_type} trunk.",
                suggest(name, valid),
            )
    return list(valid if targets is None else targets)


def linear_names(model: PreTrainedModel) -> list[str]:
    """Last parts of the names of the trunk's linear layers: not of the output layer, which embeddings may share."""
    trunk = model.base_model.named_modules()
    return list(dict.fromkeys(n.rpartition(".")[2] for n, m in trunk if isinstance(m, nn.Linear | Conv1D)))


def quantisation(bits: int | None, dtype: torch.dtype) -> Any:
    """What transformers needs to load a model in 8 or 4 bits; None for neither.

    Raises:
        UserError: without CUDA or bitsandbytes.
    """
    if bits is None:
        return None
    check_quantisation(bits)
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def check_quantisation(bits: int) -> None:
    """Whether models can be held in so few bits here.

    Raises:
        UserError: if not, with what is missing.
    """
    if bits not in (4, 8):
        raise UserError(f"adapter.bits={bits}.", "It is 8, 4, or null for none.")
    if not torch.cuda.is_available():
        raise UserError(
            f"adapter=lora-{bits}bit needs a CUDA GPU, and there is none here.",
            "Use adapter=lora; model.dtype=bfloat16 halves the weights.",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"adapter=lora-{bits}bit needs bitsandbytes.", "Install it: pip install 'pama-exp[quantization]'."
        )


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise UserError("adapter=lora needs peft.", "Install it: pip install 'pama-exp[lora]'.") from None
    return peft
