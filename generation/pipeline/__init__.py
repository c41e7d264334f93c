"""The hot loop: shards of draws become settled rows, and engines never wait."""
