"""Preview: a few samples with every prompt, reply and verdict. Nothing is kept."""
