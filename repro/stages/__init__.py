"""One file a stage: data, base, sft, rm, ppo (and dpo in its place), evaluate, judge; what they share stands beside them."""
