"""The N+ implementation details of RLHF with PPO, as toggles that can be run."""
