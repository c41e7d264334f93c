"""The rendezvous, by which the workers of a training run find each other; import it only where Ray Train is loaded."""

from ipaddress import ip_address
from typing import Any
from uuid import uuid4

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend


class Rendezvous(TorchConfig):
    """Ray Train's own rendezvous, but over a file if Ray listens only on the loopback address.

    Torch's TCP store would listen on every network interface, whatever its address is, and without authentication.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Return the class that sets up the process group."""
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:  # noqa: ANN401 - Ray has several kinds
        if not ip_address(ray.util.get_node_ip_address()).is_loopback:
            super().on_start(worker_group, backend_config)
            return
        node: Any = ray._private.worker._global_node
        settings = {
            "backend": backend_config.backend,
            "world_size": len(worker_group),
            "init_method": f"file://{node.get_session_dir_path()}/rendezvous-{uuid4().hex}",
            "timeout_s": backend_config.timeout_s,
        }
        worker_group.execute(_set_torch_distributed_env_vars)
        ray.get(
            [
                worker_group.execute_single_async(rank, _setup_torch_process_group, world_rank=rank, **settings)
                for rank in range(len(worker_group))
            ]
        )
