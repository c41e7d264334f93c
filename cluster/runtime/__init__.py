"""Execution on Ray: session, actors, deaths of processes, interruptions, logs and progress."""
