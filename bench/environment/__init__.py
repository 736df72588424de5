"""Where and under which versions something is measured; imports no torch and knows no cell."""

from bench.environment.health import SAMPLES, Problem, find_problems, known_plans, missing_samples
from bench.environment.hub_cache import find_snapshot, hub_cache_dir, user_cache_dir
from bench.environment.machine import (
    cpu_name,
    device_class,
    device_name,
    list_devices,
    memory_bytes,
    num_cores,
)
from bench.environment.offline import is_offline
from bench.environment.provenance import collect_environment, package_versions

__all__ = [
    "SAMPLES",
    "Problem",
    "collect_environment",
    "cpu_name",
    "device_class",
    "device_name",
    "find_problems",
    "find_snapshot",
    "hub_cache_dir",
    "is_offline",
    "known_plans",
    "list_devices",
    "memory_bytes",
    "missing_samples",
    "num_cores",
    "package_versions",
    "user_cache_dir",
]
