"""Schedules of the learning rate and of the data."""
