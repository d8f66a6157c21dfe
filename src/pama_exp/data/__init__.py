"""Prompts and preferences: tables, conversations, tokenization, batches, and seeds of random streams."""
