"""Rollout engines: responses sampled from the policy, behind one protocol."""
