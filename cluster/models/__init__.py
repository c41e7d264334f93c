"""Models: where their files are, the floating-point type they compute in, and the interfaces of engine and encoder."""
