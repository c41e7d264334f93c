"""Engines, which answer requests: vLLM in this process, endpoints, actors, and the resources they need."""
