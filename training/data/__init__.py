"""The way from samples to packed tokens: chat templates, masks and bins."""
