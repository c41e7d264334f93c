"""The samples of a selection as columns and matrices, and arrays that earlier runs have stored."""
