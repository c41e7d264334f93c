"""Input and output: files of many shapes become samples, and samples become files."""
