"""The mathematics of reinforcement learning as pure functions: masks, KL, advantages, losses."""
