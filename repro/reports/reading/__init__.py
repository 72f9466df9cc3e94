"""What the store holds, read from MLflow: the only room of the reports that knows it."""
