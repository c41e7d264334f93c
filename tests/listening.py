"""Which addresses the processes of a session listen on, as the kernel tells it."""

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

LISTEN = "0A"


def _listening() -> dict[str, tuple[str, int]]:
    """Address and port of every TCP socket that listens, by the number of its inode."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTEN:
                digits, port = local.split(":")
                words = [bytes.fromhex(digits[i : i + 8])[::-1] for i in range(0, len(digits), 8)]  # little-endian
                family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
                found[rest[5]] = (socket.inet_ntop(family, b"".join(words)), int(port, 16))
    return found


def _sockets_of(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            link = str(entry.readlink())
        except FileNotFoundError:
            continue  # closed meanwhile
        if link.startswith("socket:["):
            found.add(link[len("socket:[") : -1])
    return found


def listening(pids: Iterable[int]) -> list[tuple[str, str, int]]:
    """(process, address, port) of every TCP socket that these processes listen on."""
    sockets, found = _listening(), []
    for pid in pids:
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            inodes = _sockets_of(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        found += [(f"{pid} {name}", *sockets[inode]) for inode in sorted(inodes & sockets.keys())]
    return found


def is_loopback(address: str) -> bool:
    parsed: IPv4Address | IPv6Address | None = ip_address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return parsed is not None and parsed.is_loopback


def family_of(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text(errors="replace")
        except OSError:
            continue
        parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found
