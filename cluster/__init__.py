"""The base of the other packages; it imports none of them."""
