"""The base of the other packages. It imports none of them."""
