"""What a person types, what a person watches meanwhile, and the registry as it is shown."""
