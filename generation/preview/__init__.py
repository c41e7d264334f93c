"""Preview: a few samples with every prompt, reply and verdict, none of which is kept."""
