"""What is kept and shown of a run: its record on disk, W&B, the console, pictures."""
