"""The URI of the MLflow store in use; a module of its own, so that it is known without importing MLflow."""

import os

DEFAULT_STORE = "sqlite:///mlflow.db"


def store_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the sqlite file of the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE
