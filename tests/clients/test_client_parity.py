"""The blocking and the asyncio client are one client."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types
from collections.abc import Callable
from importlib import metadata

import pytest

import armin
from armin import AsyncClient, AsyncWorker, Client, Worker

ITERATORS = {"messages", "events", "follow", "follow_all", "effects"}
WORKER = "worker"  # takes another kind of handler and gives another kind of worker
PIPELINE = "pipeline"  # many tasks are asyncio's own way of pipelining


def public(cls: type) -> dict[str, inspect.Signature]:
    found = inspect.getmembers(cls, inspect.isfunction)
    return {name: inspect.signature(function) for name, function in found if not name.startswith("_")}


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    blocking, asynchronous = public(Client), public(AsyncClient)
    assert set(blocking) == set(asynchronous) | {PIPELINE}
    assert set(blocking) >= ITERATORS | {"append", "close"}
    for name, signature in blocking.items():
        if name not in (WORKER, PIPELINE):
            assert signature.parameters == asynchronous[name].parameters, name


def test_both_clients_give_the_same_results() -> None:
    asynchronous = public(AsyncClient)
    for name, signature in public(Client).items():
        if name == PIPELINE:
            continue
        other = asynchronous[name].return_annotation
        if name in ITERATORS:
            assert other == signature.return_annotation.replace("Generator[", "AsyncGenerator[").replace(
                ", None, None]", ", None]"
            )
        elif name == WORKER:
            assert (signature.return_annotation, other) == ("Worker", "AsyncWorker")
        else:
            assert other == signature.return_annotation
            assert inspect.iscoroutinefunction(getattr(AsyncClient, name)), name


@pytest.mark.parametrize(
    ("one", "other"),
    [(armin.connect, armin.connect_async), (Client.worker, AsyncClient.worker)],
    ids=["connect", "worker"],
)
def test_where_types_differ_the_parameters_are_the_same(
    one: Callable[..., object], other: Callable[..., object]
) -> None:
    blocking, asynchronous = inspect.signature(one), inspect.signature(other)
    assert list(blocking.parameters) == list(asynchronous.parameters)
    for name, parameter in blocking.parameters.items():
        twin = asynchronous.parameters[name]
        assert (parameter.kind, parameter.default) == (twin.kind, twin.default)


def test_both_workers_have_the_same_methods() -> None:
    assert set(public(Worker)) == set(public(AsyncWorker)) == {"run", "stop"}
    assert inspect.iscoroutinefunction(AsyncWorker.run)
    assert isinstance(Worker.counters, property)
    assert isinstance(AsyncWorker.counters, property)


def test_every_public_method_says_what_it_does() -> None:
    for cls in (Client, AsyncClient, Worker, AsyncWorker):
        for name in public(cls):
            assert inspect.getdoc(getattr(cls, name)), (cls, name)


def test_all_is_exactly_what_the_package_offers() -> None:
    offered = {
        name
        for name, value in vars(armin).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    loaded_when_asked_for = {"AsyncClient", "AsyncWorker", "connect_async"}
    assert set(armin.__all__) == offered - {"annotations", "TYPE_CHECKING"} | loaded_when_asked_for
    assert armin.__all__ == sorted(set(armin.__all__))
    assert all(hasattr(armin, name) for name in armin.__all__)
    assert not hasattr(armin, "nothing")


def test_the_blocking_client_is_there_without_loading_asyncio() -> None:
    script = "import sys, armin; armin.connect('/nowhere').close(); print('asyncio' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_the_version_is_the_distribution_s() -> None:
    try:
        installed = metadata.version("armin")
    except metadata.PackageNotFoundError:
        pytest.skip("armin is not installed here")
    assert armin.__version__ == installed
