"""What the numbers say: pure functions of the tidy frames that the reading room gives."""
