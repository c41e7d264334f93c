"""What comes in and goes out: files of many shapes to samples, and samples to files."""
