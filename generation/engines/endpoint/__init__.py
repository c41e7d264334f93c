"""An engine at an OpenAI-compatible server: the form of its requests, and the number of calls in flight."""
