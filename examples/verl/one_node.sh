#!/usr/bin/env bash
# PAMA in verl on the GPUs of one machine: MODEL, TRAIN.parquet and TEST.parquet as verl's documentation describes them.
#   MODEL=Qwen/Qwen2.5-0.5B-Instruct TRAIN=train.parquet TEST=test.parquet GPUS=8 ./one_node.sh [more settings of verl]
set -euo pipefail
cd "$(dirname "$0")"
export VERL_USE_EXTERNAL_MODULES=pama_exp.integrations.verl # registers the solvers in every process that imports verl
python -m verl.trainer.main_ppo \
  algorithm.adv_estimator="${SOLVER:-pama}" \
  '+algorithm.gdpo_reward_keys=[brief,varied]' \
  '+algorithm.gdpo_reward_weights=[0.5,0.5]' \
  reward.custom_reward_function.path="$PWD/../trl/rewards.py" \
  reward.custom_reward_function.name=compute_score \
  data.train_files="$TRAIN" \
  data.val_files="$TEST" \
  data.train_batch_size=128 \
  data.max_prompt_length=512 \
  data.max_response_length=256 \
  actor_rollout_ref.model.path="$MODEL" \
  actor_rollout_ref.actor.optim.lr=1e-6 \
  actor_rollout_ref.actor.ppo_mini_batch_size=64 \
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8 \
  actor_rollout_ref.actor.use_kl_loss=true \
  actor_rollout_ref.actor.kl_loss_coef=0.05 \
  actor_rollout_ref.rollout.name=vllm \
  actor_rollout_ref.rollout.n=8 \
  actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
  actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8 \
  actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8 \
  trainer.n_gpus_per_node="${GPUS:-8}" \
  trainer.nnodes="${NODES:-1}" \
  trainer.project_name=pama-exp \
  trainer.experiment_name="${SOLVER:-pama}" \
  'trainer.logger=[console]' \
  "$@"
