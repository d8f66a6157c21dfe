"""Prompts as batches, and a seed for every random stream."""
