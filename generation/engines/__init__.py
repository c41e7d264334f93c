"""Engines that answer requests: vLLM in this process, endpoints and actors; and the resources that engines need."""
