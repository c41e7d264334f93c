"""Tools for methods and filters: choices, label checks, classifiers, regression, search, masking, draws and batches."""
