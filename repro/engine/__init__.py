"""How artefacts are made: one arm and seed, local workers, ranks as processes, SLURM, and what it all will cost."""
