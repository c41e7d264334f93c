"""Actors that turn samples into vectors, and the encoders that these actors open."""
