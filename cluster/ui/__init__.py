"""`gristmill ui`: a local web page over a store, and the index with which it searches a dataset."""
