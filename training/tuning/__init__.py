"""What of a model is trained: all of it, or adapters."""
