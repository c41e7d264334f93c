"""Labels of many annotators and people: votes, agreement, and the formats of labelling tools."""
