"""Pure functions on tensors: nothing here mutates, logs, or knows a device, a recipe or a stage."""
