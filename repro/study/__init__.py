"""Studies (Ablation), their budgets (Scale), and the definition of every metric."""
