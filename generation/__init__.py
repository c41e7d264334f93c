"""Generation of samples: engines run the models, methods draft samples, filters judge them, and labels are reviewed."""
