"""What keeps a run from doing harm: secrets kept out of sight, imports in their order, failures in one line."""
