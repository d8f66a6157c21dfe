"""The policy: models and adapters, value heads, log-probabilities, memory and export."""
