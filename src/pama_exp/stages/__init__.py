"""What a run can do, each a function of a configuration and a record: sft, reward_model, align, evaluate."""
