"""A cluster makes the same data sets as one machine, whatever happens to it; or says in a sentence why it cannot."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import sparse_tasks
from sparse_tasks.core.cluster import connected
from sparse_tasks.core.stores import store_at
from sparse_tasks.generators import dataset
from tests.cli.program import Finished, contents, keep_tokenizers, run
from tests.example_tokenizers import MAKERS, save
from tests.ray_cluster import RayCluster, ray_cluster
from tests.s3_server import S3Server, s3_server

REQUEST = ["-l", "2500", "-l", "3k", "-t", "story_multihop", "-t", "ruler_niah", "-n", "5"]


@pytest.fixture(autouse=True, scope="module")
def small_files() -> Iterator[None]:
    """Two samples a file: many files to be killed between. Only those who share them out need to know."""
    with pytest.MonkeyPatch.context() as patch, keep_tokenizers():
        patch.setattr(dataset, "_SHARD_TOKENS", 6_500)
        yield


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(s3: S3Server) -> Iterator[RayCluster]:
    with ray_cluster(s3.environment) as running:
        yield running


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    """What one machine makes."""
    folder = tmp_path_factory.mktemp("alone") / "data"
    assert generate(folder, "-w", "1").code == 0
    return contents(folder)


def generate(place: object, *options: object) -> Finished:
    return run("generate", *REQUEST, "-o", place, *options)


@pytest.mark.nightly
def test_two_nodes_give_the_same_bytes_as_one_machine(
    cluster: RayCluster, alone: dict[str, bytes | None], tmp_path: Path
) -> None:
    finished = generate(tmp_path / "data", "--on", cluster.address, "--format", "json")
    assert finished.code == 0, finished.err
    assert contents(tmp_path / "data") == alone
    assert finished.json()["tokens_made"] == finished.json()["total"]["tokens"]


@pytest.mark.nightly
def test_finished_files_are_not_made_again(
    cluster: RayCluster, alone: dict[str, bytes | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    assert generate(folder, "--on", "auto").code == 0
    again = generate(folder, "--on", "auto", "--format", "json")
    assert again.json()["tokens_made"] == 0
    lost = sorted(folder.glob("*/*.parquet"))[3]
    lost.unlink()
    others = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.parquet")}
    once = generate(folder, "--on", "auto", "--format", "json")
    assert 0 < once.json()["tokens_made"] < 6_500
    assert contents(folder) == alone
    assert {path: path.stat().st_mtime_ns for path in others} == others


def test_workers_that_are_killed_change_nothing(
    cluster: RayCluster, alone: dict[str, bytes | None], tmp_path: Path
) -> None:
    killed: dict[int, int] = {}
    done = threading.Event()

    def kill() -> None:
        while not done.is_set():
            for process, node in cluster.workers("_make_shard").items():
                if len(killed) < 4 and process not in killed:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                        killed[process] = node
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        finished = generate(tmp_path / "data", "--on", cluster.client)
    finally:
        done.set()
        killer.join()
    assert finished.code == 0, finished.err
    assert contents(tmp_path / "data") == alone
    assert len(killed) == 4
    assert len(set(killed.values())) == 2, "both nodes took part"


def test_bucket_gets_the_same_bytes(
    cluster: RayCluster,
    s3: S3Server,
    alone: dict[str, bytes | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    place = f"s3://{s3.new_bucket()}/deep/data"
    assert generate(place, "--on", cluster.address).code == 0
    store = store_at(place)
    files = {name: content for name, content in alone.items() if content is not None}
    assert {name: store.read(name) for name in files} == files
    assert store.names() == sorted({name.partition("/")[0] for name in files})
    store.delete("sparse_tasks.json")
    assert generate(place, "--on", cluster.address, "--seed", "1").says("output", place, "other files")


def test_bucket_without_rights_is_reported(cluster: RayCluster, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket = s3.new_bucket()
    with s3.closed():
        finished = generate(f"s3://{bucket}/data", "--on", cluster.address)
    assert finished.code == 1
    assert finished.says(f"cannot write s3://{bucket}/data")
    assert store_at(f"s3://{bucket}/data").names() == []
    assert generate("s3://nowhere/data", "--on", cluster.address).says("cannot write s3://nowhere/data", "bucket")


@pytest.mark.parametrize(
    "what",
    ["output", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("tokenizer", "chat-template", "corpus"))],
)
def test_path_missing_on_nodes_is_reported(
    cluster: RayCluster, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(next(iter(MAKERS.values()))(), tmp_path / "tokenizer")
    (tmp_path / "template").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    (tmp_path / "essays").write_text("An essay. " * 3000)
    # To every process its own directory.
    own = Path("/proc/self/cwd")
    options = {
        "output": ["-o", own / "data"],
        "tokenizer": ["--tokenizer", own / "tokenizer"],
        "chat-template": ["--chat-template", own / "template"],
        "corpus": ["--essays", own / "essays", "-t", "ruler_niah_single_2"],
    }
    before = contents(tmp_path)
    finished = generate(tmp_path / "data", *options[what], "--on", cluster.address)
    assert finished.code == 2
    assert finished.says(what, "/proc/self/cwd/", "is not seen by the node", cluster.address.partition(":")[0])
    assert contents(tmp_path) == before


def test_node_with_other_files_of_the_package_is_reported(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(sparse_tasks.__file__).parent
    shutil.copytree(package, tmp_path / "other" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "other" / package.name / "core" / "sample.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    monkeypatch.chdir(tmp_path)  # which nodes of this machine import from, too
    with cluster.another_node(env_vars={"PYTHONPATH": str(tmp_path / "other")}):
        finished = generate(tmp_path / "data", "--on", cluster.address)
    assert finished.code == 2
    assert finished.says("on", cluster.address, "has a node", "with sparse-tasks", "install the same on all")
    assert not (tmp_path / "data").exists()


def test_other_release_of_ray_is_reported(cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "__version__", "2.0.0")
    finished = generate(tmp_path / "data", "--on", cluster.address)
    assert finished.code == 2
    assert finished.says("on", cluster.address, "cannot be used", "Ray: 2.0.0")
    assert not (tmp_path / "data").exists()


def test_connection_that_the_cluster_drops_is_made_again(cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray._private import client_mode_hook

    tried = []

    def init(*arguments: Any, **options: Any) -> Any:
        tried.append(arguments)
        if len(tried) == 1:
            client_mode_hook._explicitly_enable_client_mode()
            raise ConnectionAbortedError("Starting Ray client server failed.")
        return init_of_ray(*arguments, **options)

    init_of_ray = ray.init
    monkeypatch.setattr(ray, "init", init)
    with connected(cluster.address) as found:
        assert found.cpus == 2
    assert len(tried) == 2


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """Something else that listens."""
    server = HTTPServer(("127.0.0.1", 0), type("Silent", (BaseHTTPRequestHandler,), {"log_message": lambda *_: None}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "address",
    ["", "nonsense", "ray://", "ray://127.0.0.1", "127.0.0.1:x", "http://127.0.0.1:10001", "127.0.0.1:99999", ":6379"],
)
def test_invalid_address_is_reported(address: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    finished = generate(tmp_path / "data", "--on", address)
    assert finished.code == 2
    assert finished.says("on", repr(address), "ray://HOST:10001")
    assert not (tmp_path / "data").exists()


def test_address_without_a_cluster_is_reported(web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    for address in (closed, f"ray://{closed}", web, f"ray://{web}", "ray://nohost.invalid:10001"):
        finished = generate(tmp_path / "data", "--on", address)
        assert finished.code == 2
        assert finished.says("on", address, "no Ray cluster answers there", "ray://HOST:10001")
    monkeypatch.setenv("RAY_ADDRESS", closed)
    assert generate(tmp_path / "data", "--on", "auto").says("on", "auto", "no Ray cluster answers there")
    assert not (tmp_path / "data").exists()


def test_port_of_the_other_kind_is_reported(cluster: RayCluster, tmp_path: Path) -> None:
    for address in (cluster.client.removeprefix("ray://"), f"ray://{cluster.address}"):
        finished = generate(tmp_path / "data", "--on", address)
        assert finished.code == 2
        assert finished.says("on", address, "port", "ray://HOST:10001")
    assert not (tmp_path / "data").exists()


def test_processes_of_this_machine_are_not_those_of_a_cluster(tmp_path: Path) -> None:
    finished = generate(tmp_path / "data", "--on", "auto", "-w", "2")
    assert finished.code == 2
    assert finished.says("workers", "2", "--on")


def test_missing_ray_has_install_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    finished = generate(tmp_path / "data", "--on", "auto")
    assert finished.code == 2
    assert finished.says("on", "auto", "needs Ray", "pip install '.[ray]'")
    assert not (tmp_path / "data").exists()
