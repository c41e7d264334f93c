"""The ground that the other packages are built on; it imports none of them."""
