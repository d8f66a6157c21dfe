"""LoRA adapters (Hu et al. 2021) of a frozen language model: made, switched off, saved and merged."""

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
    """A LoRA adapter: W x + (alpha / rank) B A x in place of W x in the target layers.

    The model is changed in place and frozen; only A and B are trained.

    Args:
        model: the base model.
        targets: names of linear layers; None: every linear layer of the trunk.
        rank: rows of A.
        alpha: scale of the additions, times rank.
        dropout: probability of dropout on x in training mode.

    Raises:
        UserError: if a target is not a linear layer of the trunk, or peft is not installed.
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
        """Within the block the adapter is off: the base model, used as the reference without a second copy."""
        self._wrapped.base_model.disable_adapter_layers()
        try:
            yield self.model
        finally:
            self._wrapped.base_model.enable_adapter_layers()

    def save(self, folder: str | Path) -> None:
        """Save the adapter's weights in PEFT's format; they name the folder or id of the base model."""
        self._wrapped.save_pretrained(str(folder), save_embedding_layers=False)  # they are never among the targets

    def merge(self) -> PreTrainedModel:
        """Merge the adapter into the weights and return the model; the adapter cannot be used afterwards."""
        return self._wrapped.merge_and_unload()


def gates_of(model: nn.Module) -> list[nn.Linear]:
    """The first matrices A of a model's LoRA layers, in the model's order."""
    layers = [getattr(module, "lora_A", None) for module in model.modules()]
    gates = [gate for layer in layers if isinstance(layer, nn.ModuleDict) for gate in layer.children()]
    return [gate for gate in gates if isinstance(gate, nn.Linear)]


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block peft's warning about a renamed property of transformers is silent; users cannot act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        yield


def check_targets(model: PreTrainedModel, targets: Sequence[str] | None) -> list[str]:
    """Names of the layers to adapt: `targets`, checked, or every linear layer of the trunk if None.

    Raises:
        UserError: for a name that matches no layer; the hint lists those that exist.
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
    """Last parts of the names of the trunk's linear layers, without the output layer, which may share embeddings."""
    trunk = model.base_model.named_modules()
    return list(dict.fromkeys(n.rpartition(".")[2] for n, m in trunk if isinstance(m, nn.Linear | Conv1D)))


def quantisation(bits: int | None, dtype: torch.dtype) -> Any:
    """transformers' settings for loading a model in 8 or 4 bits; None for no quantisation.

    Args:
        bits: 8, 4 or None.
        dtype: precision of the computation with 4 bits.

    Raises:
        UserError: for other bits, or without CUDA or bitsandbytes.
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
    """Check that this machine can hold models in 8 or 4 bits.

    Raises:
        UserError: for other bits, or if a GPU or bitsandbytes is missing.
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
