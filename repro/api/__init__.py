"""The Python interface, and what the command line shares with it: run a study, read its results, load a policy."""

import logging
import os

# MLflow says what it does in a dozen lines a run; it reads the variables when it is imported, by whomever.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
logging.getLogger("matplotlib").setLevel(logging.ERROR)
