"""Synthesis and self-filter: the vLLM engine actor, methods (one file each), filters (one file each)."""
