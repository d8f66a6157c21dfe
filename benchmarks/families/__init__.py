"""Families of methods on one known front: what each attains over five preferences, what it costs, what it needs."""
