"""The method `targeted` and its prompts."""
