"""Vectors compared by nearness: clusters, neighbours, who of like ones stays."""
