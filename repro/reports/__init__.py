"""Reports built from the MLflow store alone: read a study, compare its arms, draw it, write its page."""
