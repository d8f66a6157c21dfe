"""Supervised training: the SFT policy, reward models, and policies from preference pairs."""
