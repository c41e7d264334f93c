"""The hot loop: shards of draws become settled rows, on engines that never wait."""
