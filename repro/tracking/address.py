"""Where the MLflow store in use is: a name, which is told before MLflow itself is there."""

import os

DEFAULT_STORE = "sqlite:///mlflow.db"


def store_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the sqlite file of the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE
