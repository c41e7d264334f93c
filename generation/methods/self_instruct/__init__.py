"""The method `self_instruct`, and how it asks for instances."""
