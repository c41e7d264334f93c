"""What runs on Ray and ends in order: session, actors, deaths, interruptions, logs and progress."""
