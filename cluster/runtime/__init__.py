"""Everything about running on Ray: session, actors, deaths, interruptions, logs and progress."""
