"""A process that takes some steps and then never ends one: python -m tests.training.supervision.lonely FOLDER RANK."""

import sys
import time
from pathlib import Path

from gristmill.training.supervision.heartbeat import Heartbeat

if __name__ == "__main__":
    heart = Heartbeat(Path(sys.argv[1]), int(sys.argv[2]), "here", 0.05)
    for step in range(1, 5):
        heart.enter("step", step)
        time.sleep(0.1)
    while True:
        pass
