"""A few samples with every prompt, reply and verdict; nothing is kept."""
