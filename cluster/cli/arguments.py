"""The arguments of the verbs with many of them."""

import argparse
import math

MODEL_FORMS = ("model", "adapter")
FORMS = ("parquet", "jsonl", "sharegpt", "alpaca", "preference", "feedback", "prompts", *MODEL_FORMS)


def count(text: str) -> int:
    """Return a whole number of at least 1; argparse says so if it is none."""
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r}, must be a whole number of at least 1")
    return int(text)


def amount(text: str) -> float:
    """Return a finite number that is not negative; argparse says so if it is none."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}, must be a number that is not negative")
    return found


def plan_arguments(sub: argparse.ArgumentParser) -> None:
    """Add the arguments of `plan`."""
    sub.add_argument("--json", action="store_true", help="for scripts")
    text = "say what the jobs take on a cluster of N machines: hours, memory of the driver, requests to the store"
    sub.add_argument("--nodes", type=count, default=0, metavar="N", help=text)
    sub.add_argument("--gpus", type=count, default=1, metavar="N", help="GPUs of each of these machines (default: 1)")
    text = "what an hour of one of these machines costs; the plan then says what each job costs"
    sub.add_argument("--price", type=amount, default=0.0, metavar="MONEY", help=text)


def submit_arguments(sub: argparse.ArgumentParser) -> None:
    """Add the arguments of `submit`."""
    text = "address of the cluster's dashboard, such as http://HEAD:8265 (default: that of RAY_API_SERVER_ADDRESS)"
    sub.add_argument("--address", default=None, help=text)
    text = "print what the run prints, until it ends, and end with its exit code"
    sub.add_argument("--follow", action="store_true", help=text)
    text = "environment variable that the run gets too, such as a key; whoever reads Ray's dashboard can see it"
    sub.add_argument("--env", action="append", default=[], metavar="NAME", help=text)


def refresh_arguments(sub: argparse.ArgumentParser) -> None:
    """Add the arguments of `refresh`."""
    text = "key of this tick: another tick with the same key begins no round (default: the slot of time)"
    sub.add_argument("--key", default="", help=text)
    text = "begin a round even if there are not enough new rows, and record why, such as a drift alarm"
    sub.add_argument("--alarm", default="", metavar="REASON", help=text)
    text = "wait while another process works on the line; by default the command ends with exit code 75"
    sub.add_argument("--wait", action="store_true", help=text)
    text = "end the open round without a decision, for example after an error that the recipe of the round cannot avoid"
    sub.add_argument("--abandon", action="store_true", help=text)
    sub.add_argument("--quiet", action="store_true", help="no progress")
    sub.add_argument("--json", action="store_true", help="for scripts")


def export_arguments(sub: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    sub.add_argument("name", help="a dataset or run, or the beginning of its name")
    text = "a file (.jsonl, .jsonl.gz, .jsonl.zst, .parquet), or a folder for a Hugging Face dataset; a path or URI, "
    text += "or a repository of the hub, as hf://datasets/OWNER/NAME"
    sub.add_argument("target", help=text)
    text = (
        "default: parquet or jsonl, as the suffix says; model and adapter copy a trained model into a folder, with a "
    )
    text += "card"
    sub.add_argument("--form", choices=FORMS, help=text)
    sub.add_argument("--dropped", action="store_true", help="the dropped samples too")
    text = "add id, parents, method, round, origin, scores and tags to each row, whatever the form"
    sub.add_argument("--provenance", action="store_true", help=text)
    text = "the score by which candidates are ordered and good answers are told from bad ones (default: preference)"
    sub.add_argument("--by", default="", metavar="SCORE", help=text)
    sub.add_argument("--threshold", type=float, default=0.5, help="least score of a good answer (default: 0.5)")
    text = "make the repository of the hub public; by default it is made private, and an existing public one is refused"
    sub.add_argument("--public", action="store_true", help=text)


def serve_arguments(sub: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    sub.add_argument("name", help="a run or a trained model, the beginning of its name, or a line")
    text = "serve the base model with the adapter beside it, and both under their names, instead of the merged model"
    sub.add_argument("--adapter", action="store_true", help=text)
    text = "address to listen on (default: 127.0.0.1, which no other machine can reach)"
    sub.add_argument("--host", default="127.0.0.1", help=text)
    text = "port to listen on; 0 takes a free one (default: 8000)"
    sub.add_argument("--port", type=int, default=8000, help=text)
    text = "number of servers that Ray Serve runs on a cluster, behind one address (default: one, without Ray)"
    sub.add_argument("--replicas", type=int, default=0, metavar="N", help=text)
    text = "address of a running cluster for --replicas (default: that of RAY_ADDRESS, else this machine alone)"
    sub.add_argument("--address", default=None, help=text)
    text = "environment variable with the key that clients must send (default: VLLM_API_KEY, if it is set)"
    sub.add_argument("--api-key-env", default="", metavar="NAME", help=text)
    text = "one setting of the engine, such as max_model_len=4096 or kv_cache_gib=4 (`gristmill explain "
    text += "evaluate.engine` lists them)"
    sub.add_argument("--engine", action="append", default=[], metavar="KEY=VALUE", help=text)
