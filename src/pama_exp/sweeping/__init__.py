"""Sweeps: many runs from one command. Presets, planning, launching, watching, resuming and search."""
