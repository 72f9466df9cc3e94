"""The stages, a file each: data, base, sft, rm, ppo or dpo, evaluate, judge; and the modules that several stages use."""
