"""Models: where their files are, in which type they compute, and the interfaces of engine and encoder."""
