"""Responses sampled from the policy, behind one protocol."""
