"""Supervised training: the SFT policy and reward models, made once and kept."""
