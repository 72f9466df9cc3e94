"""Makes artefacts: the pipeline of one arm and seed, local workers, ranks as processes, SLURM; and estimates the cost."""
