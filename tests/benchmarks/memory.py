"""What a process holds, by Linux; `python FILE` finds this beside the benchmark that it runs."""

from pathlib import Path


def memory(name):
    """MiB: VmRSS, what the process holds, or VmHWM, the most that it ever held."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) / 1024


def forget_peak():
    """Begins VmHWM anew, and returns what the process holds, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")
