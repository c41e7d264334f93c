"""Models: where their files are, what they compute in, and how an engine and an encoder are asked."""
