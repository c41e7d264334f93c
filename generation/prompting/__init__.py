"""What methods and filters ask with: templates, choices, final answers, spans, search, classifiers."""
