#!/usr/bin/env bash
# The same on several machines. Start Ray on all of them first, pama-exp installed and VERL_USE_EXTERNAL_MODULES set on each:
#   export VERL_USE_EXTERNAL_MODULES=pama_exp.integrations.verl
#   ray start --head --port=6379               # on the first
#   ray start --address=FIRST:6379             # on the others
# then on the first, with files that every machine can read:
#   MODEL=… TRAIN=… TEST=… GPUS=8 NODES=4 ./many_nodes.sh
set -euo pipefail
NODES="${NODES:?how many machines}" exec "$(dirname "$0")/one_node.sh" \
  +ray_kwargs.ray_init.address=auto \
  +ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES=pama_exp.integrations.verl \
  data.train_batch_size=512 \
  actor_rollout_ref.actor.ppo_mini_batch_size=256 \
  "$@"
