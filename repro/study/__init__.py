"""What is asked: budgets (Scale), studies (Ablation), and every metric with its definition."""
