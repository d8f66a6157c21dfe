"""The policy: models and adapters from configurations and folders, value heads, log-probabilities."""
