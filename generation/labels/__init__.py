"""Labels of many annotators and people: votes, agreement, and the forms of labelling tools."""
