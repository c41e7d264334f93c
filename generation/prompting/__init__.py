"""What methods and filters ask with: templates, choices, replies, final answers, spans, search, classifiers."""
