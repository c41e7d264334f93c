"""The samples of a selection as columns and matrices, and arrays kept from earlier runs."""
