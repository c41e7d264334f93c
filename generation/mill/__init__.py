"""The hot loop: shards of draws into settled rows, on engines that never wait."""
