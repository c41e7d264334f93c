"""What answers requests: vLLM in this process, endpoints, actors, and the room that they take."""
