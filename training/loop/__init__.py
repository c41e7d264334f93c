"""The training loop of one worker, its losses, and how workers find each other."""
