"""Readers: files of outside data, local or by URI, become rows that know their place in the file."""
