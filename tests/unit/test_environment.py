"""Devices, limits, versions and problems, on this machine or on folders that look like another."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.environment import (
    collect_environment,
    cpu_name,
    device_class,
    device_name,
    find_problems,
    health,
    is_offline,
    known_plans,
    list_devices,
    memory_bytes,
    num_cores,
)
from bench.environment.machine import gpus_of_kernel_module, select_visible
from bench.errors import UsageError
from bench.record import NumericsPlan

GIGABYTE = 1 << 30


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, timeout=30)


def test_the_environment_is_collected_without_torch():
    code = (
        "import sys; from pathlib import Path; import bench.environment as e;"
        "e.collect_environment('cpu', Path()); print(sorted({'torch', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_environment_names_versions_and_machine():
    here = collect_environment("cpu", Path(__file__).parent)
    assert here.packages["numpy"]
    assert here.packages["transfer-bench"]
    assert here.device_class == f"cpu:{here.cpu}:{here.num_cores}"
    assert (here.driver, here.cuda) == (None, None)
    assert here.memory_bytes > GIGABYTE // 4


def test_a_generic_processor_name_gets_its_generation_and_what_it_has_for_bf16(tmp_path):
    cpuinfo = (
        "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD  EPYC\n"
        "flags\t\t: fpu avx2 avx512f avx512_bf16\n\nprocessor\t: 1\nmodel name\t: other\n"
    )
    root = write(tmp_path, proc__cpuinfo=cpuinfo)
    assert cpu_name(root) == "AMD EPYC (family 25 model 17 avx2 avx512f avx512_bf16)"


def test_a_processor_that_nothing_is_known_of_still_has_a_name(tmp_path):
    assert cpu_name(tmp_path)


@pytest.mark.parametrize(
    ("quota", "cores"), [("50000 100000", 1), ("max 100000", None), ("100000 100000", 1)]
)
def test_cores_are_bounded_by_the_control_group(tmp_path, quota, cores):
    root = write(tmp_path, proc__self__cgroup="0::/box/job\n")
    (root / "sys/fs/cgroup/box").mkdir(parents=True)
    (root / "sys/fs/cgroup/box/cpu.max").write_text(quota)
    assert num_cores(root) == (cores or len(os.sched_getaffinity(0)))


def test_cores_are_bounded_by_an_old_control_group(tmp_path):
    folder = tmp_path / "sys/fs/cgroup/cpu"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("100000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert num_cores(tmp_path) == 1
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert num_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_memory_is_bounded_by_the_smallest_control_group_above(tmp_path):
    root = write(tmp_path, proc__self__cgroup="0::/box/job\n")
    for name, limit in (("box", str(GIGABYTE)), ("box/job", "max")):
        folder = root / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
    assert memory_bytes(root) == GIGABYTE
    assert memory_bytes(root / "elsewhere") > GIGABYTE // 4


def test_memory_is_bounded_by_an_old_control_group(tmp_path):
    folder = tmp_path / "sys/fs/cgroup/memory"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("1048576\n")
    assert memory_bytes(tmp_path) == 1 << 20


def test_the_cpu_is_always_a_device_and_the_last():
    assert list_devices()[-1] == "cpu"


@pytest.mark.parametrize("device", ["cuda:99", "cuda:x", "tpu"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(device):
    for function in (device_class, device_name):
        with pytest.raises(UsageError, match=rf"no device '{device}' here\. Known: .*cpu\."):
            function(device)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, (0, 1, 2)),
        ("", ()),
        ("-1", ()),
        ("2,0", (2, 0)),
        ("1, 2", (1, 2)),
        ("0,7,1", (0,)),
        ("GPU-bb", (1,)),
        ("GPU-c,GPU-aa", (2, 0)),
        ("GPU-", ()),
        ("NoDevFiles", ()),
    ],
)
def test_visible_gpus_follow_cuda_visible_devices(visible, expected):
    assert select_visible(visible, ["GPU-aa1", "GPU-bb2", "GPU-cc3"]) == expected


def test_a_slice_stands_for_the_only_gpu():
    assert select_visible("MIG-123", ["GPU-aa1"]) == (0,)
    assert select_visible("MIG-123", ["GPU-aa1", "GPU-bb2"]) == ()


def test_gpus_are_named_by_the_kernel_module_where_there_is_no_library(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    for bus, model in (("0000:01", "NVIDIA A10"), ("0000:02", "NVIDIA L4")):
        folder = tmp_path / "proc/driver/nvidia/gpus" / bus
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {model}\nGPU UUID: \t GPU-{bus}\n")
    assert gpus_of_kernel_module(tmp_path) == ("NVIDIA L4",)


def test_the_revision_is_that_of_the_project_and_says_if_it_was_changed(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "suite.yaml").write_text("name: a\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    clean = collect_environment("cpu", tmp_path)
    (tmp_path / "suite.yaml").write_text("name: b\n")
    changed = collect_environment("cpu", tmp_path)
    assert len(clean.git_revision or "") == 40
    assert changed.git_revision == clean.git_revision
    assert (clean.git_dirty, changed.git_dirty) == (False, True)


def test_outside_git_there_is_no_revision(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        here = collect_environment("cpu", folder)
        assert (here.git_revision, here.git_dirty) == (None, None)


def test_libraries_that_import_are_no_problem():
    assert health.check_imports("json, math") is None


def test_a_library_that_does_not_import_is_reported_with_its_message():
    problem = health.check_imports("json, no_such_library")
    assert problem is not None
    assert problem.blocking
    assert "No module named 'no_such_library'" in problem.what
    assert "pip install" in problem.do


def test_a_torch_beside_a_foreign_torchvision_is_recognised(tmp_path, monkeypatch):
    message = "operator torchvision::nms does not exist"
    (tmp_path / "foreign_vision.py").write_text(f"raise RuntimeError('{message}')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    problem = health.check_imports("foreign_vision")
    assert problem is not None
    assert message in problem.what
    assert "do not belong together" in problem.do


def test_missing_samples_are_named():
    problem = health.check_samples(("numpy", "no-such-weights"))
    assert problem is not None
    assert problem.what.endswith("missing: no-such-weights")
    assert problem.do == "pip install 'transfer-bench[samples]'"
    assert health.check_samples(("numpy",)) is None


def test_a_cache_that_cannot_be_a_folder_is_a_problem(tmp_path):
    (tmp_path / "file").write_text("")
    problem = health.check_cache(tmp_path / "file" / "cache")
    assert problem is not None
    assert problem.blocking
    assert "is not a folder you may write to" in problem.what
    assert "BENCH_CACHE" in problem.do


def test_a_cache_that_does_not_exist_yet_is_not_made_by_looking(tmp_path):
    health.check_cache(tmp_path / "new" / "cache")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("free", "blocking"), [(GIGABYTE // 4, True), (2 * GIGABYTE, False), (50 * GIGABYTE, None)]
)
def test_a_full_disk_blocks_and_a_short_one_warns(tmp_path, free, blocking):
    problem = health.check_disk(tmp_path, free)
    assert (None if problem is None else problem.blocking) == blocking
    if problem is not None:
        assert f"only {free / GIGABYTE:.1f} GiB are free" in problem.what


def test_a_gpu_that_torch_cannot_use_is_a_warning():
    problem = health.check_gpu(("NVIDIA L4",), True)
    assert problem is not None
    assert "NVIDIA L4" in problem.what
    assert "built without CUDA" in problem.what
    assert health.check_gpu(("NVIDIA L4",), False) is None
    assert health.check_gpu((), True) is None


def test_small_shared_memory_and_scarce_memory_are_warnings(tmp_path):
    shared = health.check_shared_bytes(Path("/dev/shm"), 64 << 20)
    assert shared is not None
    assert "/dev/shm holds only 64 MiB" in shared.what
    scarce = health.check_memory(GIGABYTE)
    assert scarce is not None
    assert "only 1.0 GiB of memory" in scarce.what
    assert not shared.blocking
    assert not scarce.blocking
    assert health.check_shared_memory(tmp_path / "absent") is None
    assert health.check_memory(16 * GIGABYTE) is None


def test_what_blocks_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(health, "_LIBRARIES", "json")
    monkeypatch.setattr(health, "_WANTED_MEMORY", 1 << 60)
    (tmp_path / "file").write_text("")
    problems = find_problems(tmp_path / "file" / "cache")
    blocking = [problem.blocking for problem in problems]
    assert blocking == sorted(blocking, reverse=True)
    assert {True, False} <= set(blocking)


@pytest.mark.parametrize(
    ("variables", "offline"),
    [
        ({}, False),
        ({"HF_HUB_OFFLINE": "1"}, True),
        ({"TRANSFORMERS_OFFLINE": "Yes"}, True),
        ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "on"}, True),
        ({"HF_HUB_OFFLINE": "0"}, False),
    ],
)
def test_a_switch_of_the_hub_forbids_downloads_in_any_of_its_spellings(
    monkeypatch, variables, offline
):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_offline() is offline


def test_known_plans_are_read_and_foreign_files_left_out(tmp_path):
    plan = NumericsPlan(precision="bf16", source="measured", seconds={"bf16 contiguous": 0.5})
    contents = (
        {"key": {"pass": "forward"}, "value": plan.model_dump(mode="json"), "seconds": 1.0},
        {"key": {"pass": "forward"}, "value": {"precision": "fp3"}, "seconds": 1.0},
        {"value": 3},
    )
    for number, content in enumerate(contents):
        folder = tmp_path / "shared" / "numerics" / str(number)
        folder.mkdir(parents=True)
        (folder / "value.json").write_text(json.dumps(content))
    assert known_plans(tmp_path) == (({"pass": "forward"}, plan),)
    assert known_plans(tmp_path / "empty") == ()
