"""The only floor that writes MLflow: the store, runs and their presentation, transfer between stores, the pages."""
