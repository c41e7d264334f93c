"""The filter `on_topic`, and the background texts on other topics that it compares with."""
