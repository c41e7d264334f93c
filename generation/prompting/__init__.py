"""Tools for asking the model: templates, choices, final answers, spans, search, classifiers."""
