"""The labels that every actor offers unasked: what its machine is."""

from actor.machine import cgroups, platform
from wire.labels import Labels, LabelValue
from wire.release import PYTHON


def builtin_labels(host: str) -> Labels:
    """Return what every actor of this host offers unasked; each adds its own `name`."""
    labels: Labels = {
        "host": host,
        "os": platform.name_system(),
        "python": PYTHON,
        "cpus": cgroups.count_cpus(),
    }
    memory_mb = cgroups.measure_memory_mb()
    if memory_mb:
        labels["memory_mb"] = memory_mb
    gpus = platform.list_gpus()
    if gpus:
        # Where none is found there may be one of another make: nothing is said of it.
        labels["gpu_count"] = len(gpus)
        names: list[LabelValue] = [*sorted(set(gpus))]
        labels["gpu_name"] = names[0] if len(names) == 1 else names
    return labels
