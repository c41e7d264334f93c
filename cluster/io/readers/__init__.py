"""Readers of files of outside data, which are local or at a URI. Each row knows its place in the file."""
