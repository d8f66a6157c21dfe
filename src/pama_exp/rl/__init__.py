"""Reinforcement learning's mathematics as pure functions: masks, KL, advantages, losses."""
