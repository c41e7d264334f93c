"""Tests of rounds, lineage and watch."""
