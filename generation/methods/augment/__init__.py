"""The method `augment`, its prompts, and the noise that it adds to words."""
