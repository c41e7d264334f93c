"""The method `evol_instruct` and its prompts."""
