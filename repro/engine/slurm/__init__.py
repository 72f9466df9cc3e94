"""Runs a study's stages as SLURM jobs: each is submitted once, with the jobs that it needs as dependencies.

The cache is on a file system that all nodes share. A job writes its artefact there and nothing else. The launcher polls the
cluster, and may be stopped and started again: the cache also records which SLURM job makes which artefact.
"""
