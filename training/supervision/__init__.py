"""The supervision of a training run: heartbeats of the workers, causes of failures, number of workers, restarts."""
