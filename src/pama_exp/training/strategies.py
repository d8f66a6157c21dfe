"""Lightning's strategies for the `trainer` settings: replicas of the whole policy, or shards of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, cast

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.plugins import HalfPrecision
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from pama_exp.config.schema import Config, TrainerConfig
from pama_exp.errors import UserError
from pama_exp.parallel import collectives
from pama_exp.policy.compiling import missing_compiler
from pama_exp.policy.sharding import shard


class Replicas(DDPStrategy):
    """A replica of the policy in each process; the update sums their gradients itself.

    DistributedDataParallel would sum them in the backward pass of every micro-batch, and not at all in
    `torch.autograd.grad`, which computes the solvers' Gramians.
    """

    def configure_ddp(self) -> None:
        """Do not wrap the module in DistributedDataParallel."""


class Shards(ModelParallelStrategy):
    """Parameters, gradients and optimiser state sharded over the processes (FSDP2); checkpoints are single files."""

    def __init__(self, processes: int, offload_to_cpu: bool) -> None:
        super().__init__(data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.offload_to_cpu = offload_to_cpu

    def model_to_device(self) -> None:
        """Move the shards to the device, unless they are to stay in main memory."""
        if not self.offload_to_cpu:
            super().model_to_device()


class HalfWeights(HalfPrecision):
    """All weights in 16 bits. New tensors stay in float32: rewards, advantages, returns and losses are computed in it.

    Lightning's own plugin makes 16 bits torch's default type during each step.
    """

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Leave torch's default type as it is."""
        yield

    def tensor_init_context(self) -> AbstractContextManager[None]:
        """Likewise."""
        return nullcontext()


def process_count(trainer: TrainerConfig) -> int:
    """Number of processes of the run; `devices` -1 means one per GPU."""
    return torch.cuda.device_count() if trainer.devices == -1 else trainer.devices


def is_shared(config: Config) -> bool:
    """Whether the stage runs in several processes, or in one process under FSDP."""
    several = process_count(config.trainer) > 1 or config.trainer.strategy == "fsdp"
    return several and bool(config.stage.get("shared", False))


def trainer_settings(trainer: TrainerConfig) -> dict[str, Any]:
    """Arguments of Lightning's trainer: accelerator, devices, precision and, in a shared run, the strategy."""
    settings: dict[str, Any] = {"accelerator": trainer.accelerator, "devices": trainer.devices}
    if trainer.half_type is not None:
        settings["plugins"] = [HalfWeights(cast(Literal["bf16-true", "16-true"], trainer.precision))]
    else:
        settings |= {"precision": trainer.precision, "plugins": []}
    if not torch.distributed.is_initialized():
        return settings
    count = collectives.size()
    strategy = Shards(count, trainer.cpu_offload) if trainer.strategy == "fsdp" else Replicas()
    plugins = [*settings["plugins"], LightningEnvironment()]
    return {**settings, "devices": count, "strategy": strategy, "plugins": plugins}


def sharding_of(trainer: TrainerConfig) -> Any:
    """The function that shards policy and reference over the processes; None without FSDP."""
    return partial(shard, offload_to_cpu=trainer.cpu_offload) if trainer.strategy == "fsdp" else None


def check_trainer(config: Config, here: bool = True) -> None:
    """Check that the devices exist (with `here`, on this machine) and that batches divide among the processes.

    Raises:
        UserError: if not.
    """
    trainer, t = config.trainer, config.training
    name = f"trainer.accelerator={trainer.accelerator}"
    if trainer.uses_gpu:
        if trainer.precision == "16-mixed":
            raise UserError(
                "trainer.precision=16-mixed scales losses on a GPU; gradients would be clipped and compared scaled.",
                "Set trainer.precision=bf16-mixed, bf16-true or 32-true.",
            )
        present = torch.cuda.device_count()
        if present == 0 and here:
            raise UserError(
                f"{name}: there is no GPU here that torch can use.",
                "Set trainer=cpu, or trainer.accelerator=cpu trainer.precision=32-true trainer.devices=2.",
            )
        if trainer.devices > present and here:
            raise UserError(f"trainer.devices={trainer.devices}: there are {present} GPUs here.", "Set -1 for all.")
    elif trainer.devices == -1:
        raise UserError(f"trainer.devices=-1 means all GPUs, but {name}.", "Give the number of processes.")
    count = process_count(trainer)
    if trainer.strategy == "single" and count > 1:
        raise UserError(
            f"trainer.devices={trainer.devices} needs a strategy of several processes.",
            "Set trainer=ddp or trainer=fsdp.",
        )
    if trainer.cpu_offload and trainer.strategy != "fsdp":
        raise UserError("trainer.cpu_offload=true keeps shards in main memory.", "Set trainer=fsdp.")
    if trainer.strategy == "fsdp" and config.rollout.engine.get("graphs"):
        raise UserError(
            "rollout.engine.graphs=true: graphs want weights that stay where they are, and trainer=fsdp gathers them.",
            "Set rollout.engine.graphs=false, or trainer=ddp.",
        )
    if trainer.compile and (missing := missing_compiler(trainer.accelerator)) is not None:
        raise UserError(f"trainer.compile=true: torch finds no {missing} here.", "Install one, or leave it off.")
    if count and t.mini_batch_size % count:
        raise UserError(
            f"training.mini_batch_size={t.mini_batch_size} is not a multiple of the {count} processes.",
            f"Set training.mini_batch_size to a multiple of {count} that divides training.batch_size={t.batch_size}.",
        )
