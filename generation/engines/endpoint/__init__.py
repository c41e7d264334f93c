"""An engine at an OpenAI-compatible server: its requests on the wire, and how many are in flight."""
