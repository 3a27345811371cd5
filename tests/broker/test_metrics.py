"""The metrics endpoint: what it shows, and that nobody who scrapes it can hold up the engine."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from armin_broker import metrics
from armin_broker.exposition import COUNTERS, GAUGES, GROUP_GAUGES, OTHERWISE
from armin_broker.metrics import SCRAPE_S, SCRAPES_MAX
from harness import READY_S, Engine, wait_until

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.fixture
def scraped(short_dir: Path) -> Iterator[Engine]:
    """An engine with a metrics endpoint on a free port."""
    engine = Engine(short_dir / "e", "--metrics", "127.0.0.1:0", "--log-json").start()
    yield engine
    engine.stop()


def url_of(engine: Engine) -> str:
    events = map(json.loads, engine.errors().splitlines())
    return str(next(event["url"] for event in events if event["message"] == "metrics"))


def port_of(engine: Engine) -> int:
    return int(url_of(engine).rpartition(":")[2].split("/")[0])


def scrape(engine: Engine) -> str:
    with urllib.request.urlopen(url_of(engine), timeout=READY_S) as answer:
        assert answer.status == 200
        return str(answer.read().decode("utf-8"))


def samples(engine: Engine) -> dict[tuple[str, ...], float]:
    """Values by name and the values of labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(scrape(engine))
        for sample in family.samples
    }


def settled(engine: Engine) -> dict[tuple[str, ...], float]:
    """What is shown once the loop has told what happened before now."""
    with engine.peer() as peer:
        commands = peer.ask("stats")["commands"]
    wait_until(lambda: samples(engine).get(("armin_commands_total",), 0) >= commands)
    return samples(engine)


def test_the_figures_are_those_of_stats(scraped: Engine) -> None:
    with scraped.peer() as peer:
        for _ in range(3):
            peer.ask("create_session")
        append = {"op": "append", "session_id": 1, "role": "user", "content": "x"}
        peer.ask("pipeline", commands=[append] * 5)
        peer.ask("close_session", session_id=2)
        peer.ask("close_session", session_id=99)
        peer.ask("create_group", group="mail", start="begin", max_attempts=1)
        lease = peer.ask("lease", group="mail", max=2)["leases"][0]["lease"]
        peer.ask("nack", group="mail", leases=[lease])
        peer.ask("refresh_snapshot")
        peer.ask("backup", name="b")
        wait_until(lambda: peer.ask("stats")["backup_ok"] is True)
    found = settled(scraped)
    with scraped.peer() as peer:
        stats, hello = peer.ask("stats"), peer.ask("hello")
    moving = {"commands", "groups", "uptime_ms"}
    for each in (*GAUGES, *COUNTERS):
        if each.field not in moving:
            assert found[(each.metric,)] == pytest.approx(stats[each.field] * each.factor), each.metric
    assert (found["armin_sessions",], found["armin_facts_total",], found["armin_errors_total",]) == (3, 9, 1)
    shown = {name for name, *_ in found if name.startswith("armin_worker_group_")}
    assert shown == {each.metric for each in GROUP_GAUGES}
    assert (found["armin_worker_group_leased", "mail"], found["armin_worker_group_dead", "mail"]) == (1, 1)
    assert found["armin_connections", "ipc"] >= 0
    assert (found["armin_ready",], found["armin_writes_refused",]) == (1, 0)
    assert 0 <= found["armin_figures_age_seconds",] < READY_S
    assert hello["engine"] in scrape(scraped)
    assert found["process_open_fds",] > 10


def test_commits_are_in_histograms(scraped: Engine) -> None:
    with scraped.peer() as peer:
        peer.ask("create_session")
        append = {"op": "append", "session_id": 1, "role": "user", "content": "x"}
        for count in (2, 5, 64):
            peer.ask("pipeline", commands=[append] * count)
        commits = peer.ask("stats")["commits"]
    found = settled(scraped)
    at_most = [found["armin_commit_writes_bucket", str(float(bound))] for bound in (1, 2, 4, 8, 32, 64, 128)]
    assert at_most == [1, 2, 2, 3, 3, 4, 4]
    assert (found["armin_commit_writes_count",], found["armin_commit_writes_sum",]) == (commits, 72)
    assert found["armin_commit_duration_seconds_count",] == commits
    assert found["armin_commit_duration_seconds_bucket", "+Inf"] == commits
    assert 0 < found["armin_commit_duration_seconds_sum",] < READY_S


def test_every_figure_of_stats_is_there_or_left_out_on_purpose(scraped: Engine) -> None:
    with scraped.peer() as peer:
        stats = peer.ask("stats")
    shown = {each.field for each in (*GAUGES, *COUNTERS)}
    assert shown | OTHERWISE == stats.keys() - {"ok"}
    assert not shown & OTHERWISE


def test_names_follow_the_conventions(scraped: Engine) -> None:
    settled(scraped)
    families = list(text_string_to_metric_families(scrape(scraped)))
    assert len(families) > 50
    for family in families:
        assert family.documentation
        assert re.fullmatch(r"(armin|process)(_[a-z]+)*", family.name), family.name
        assert not family.name.endswith(("_ms", "_mib"))
    for each in COUNTERS:
        assert each.metric.endswith("_total")


def test_the_table_in_the_docs_is_complete(scraped: Engine) -> None:
    with scraped.peer() as peer:
        peer.ask("create_session")
        peer.ask("create_group", group="g", start="now")
        peer.ask("refresh_snapshot")
        peer.ask("backup", name="b")
        wait_until(lambda: peer.ask("stats")["backup_ok"] is True)
    settled(scraped)
    text = scrape(scraped)
    families = re.findall(r"^# TYPE (armin\w*) (\w+)$", text, re.MULTILINE)
    documented = re.findall(r"`(armin_[a-z_]+)`", OPERATIONS.read_text("utf-8"))
    assert sorted(documented) == sorted(name for name, _ in families)


# --- scrapers that do harm ------------------------------------------------------------------------


def test_a_scraper_that_stops_half_way_stops_nobody(scraped: Engine) -> None:
    with ExitStack() as stack, scraped.peer() as peer:
        for sent in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"):
            stalled = stack.enter_context(socket.create_connection(("127.0.0.1", port_of(scraped))))
            stalled.sendall(sent)
        assert peer.ask("create_session")["ok"]
        assert ("armin_ready",) in samples(scraped)
    assert scraped.stop() == 0


def test_scrapers_beyond_the_limit_are_hung_up_on_and_cost_no_descriptors(scraped: Engine) -> None:
    descriptors = Path(f"/proc/{scraped.pid}/fd")
    before = len(list(descriptors.iterdir()))
    with ExitStack() as stack, scraped.peer() as peer:
        opened = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port_of(scraped))))
            for _ in range(4 * SCRAPES_MAX)
        ]
        for each in opened[SCRAPES_MAX:]:
            each.settimeout(READY_S)
            assert each.recv(1) == b"", "there is no room for it"
        assert peer.ask("ping")["ok"]
        assert len(list(descriptors.iterdir())) <= before + SCRAPES_MAX + 4
    wait_until(lambda: len(list(descriptors.iterdir())) <= before + 1)
    assert ("armin_ready",) in samples(scraped)


def test_other_methods_are_refused(scraped: Engine) -> None:
    request = urllib.request.Request(url_of(scraped), data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused, closing(urllib.request.urlopen(request)):
        pass
    assert refused.value.code == 405
    refused.value.close()


def test_scrapes_are_no_lines_in_the_log(scraped: Engine) -> None:
    wait_until(lambda: '"message": "serving"' in scraped.errors())
    before = scraped.errors()
    for _ in range(3):
        scrape(scraped)
    with socket.create_connection(("127.0.0.1", port_of(scraped))) as rude:
        rude.sendall(b"\x16\x03\x01\x00garbage\r\n\r\n")
    assert scrape(scraped)
    assert scraped.errors() == before


def test_the_age_of_the_figures_tells_of_a_loop_that_is_held_up() -> None:
    from armin_broker.exposition import Figured
    from armin_broker.metrics import Figures

    now = 100.0
    stats = {"writes_refused": None, "connections_ipc": 0, "connections_tcp": 0}
    hello = dict.fromkeys(("version", "database", "epoch", "engine"), "x")
    figures = Figures(now, hello, stats, {"ready": True}, (), ({}, 0), ({}, 0))
    collected = {family.name: family for family in Figured(lambda: figures, lambda: now + 7).collect()}
    assert collected["armin_figures_age_seconds"].samples[0].value == 7
    nothing = list(Figured(lambda: None).collect())
    assert [(family.name, family.samples[0].value) for family in nothing] == [("armin_ready", 0)]


# --- starting -------------------------------------------------------------------------------------


def serve(directory: Path, *options: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    start = f"import sys; {before}; from armin.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", start, "serve", str(directory), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=READY_S, check=False)


def test_a_port_that_is_taken_is_a_failure_of_its_own(short_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve(short_dir / "e", "--metrics", f"127.0.0.1:{port}")
    assert done.returncode == 24
    assert f"cannot bind the metrics endpoint 127.0.0.1:{port}: Address already in use" in done.stderr


def test_without_the_extra_it_says_which_one_is_missing(short_dir: Path) -> None:
    missing = "sys.modules['prometheus_client'] = None"
    done = serve(short_dir / "e", "--metrics", "127.0.0.1:0", before=missing)
    assert done.returncode == 24
    assert "pip install 'armin[metrics]'" in done.stderr


def test_without_metrics_nothing_of_the_extra_is_needed(short_dir: Path) -> None:
    loaded = "import atexit; atexit.register(lambda: print('prometheus_client' in sys.modules))"
    command = f"import sys; {loaded}; sys.argv = []; import armin.cli.serve"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_beyond_loopback_it_warns(short_dir: Path) -> None:
    engine = Engine(short_dir / "e", "--metrics", "0.0.0.0:0", "--log-json").start()
    try:
        assert "INSECURE: whoever reaches 0.0.0.0 can read the metrics" in engine.errors()
    finally:
        engine.stop()


def test_a_bad_address_is_a_usage_error(short_dir: Path) -> None:
    done = serve(short_dir / "e", "--metrics", "9450")
    assert done.returncode == 2
    assert "'9450' is not HOST:PORT" in done.stderr
    assert not (short_dir / "e").exists()


def test_ipv6_takes_brackets(short_dir: Path) -> None:
    engine = Engine(short_dir / "e", "--metrics", "[::1]:0", "--log-json").start()
    try:
        assert ("armin_ready",) in samples(engine)
    finally:
        assert engine.stop() == 0


def test_a_stop_does_not_wait_for_a_scraper(scraped: Engine) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port_of(scraped))) as stalled:
        stalled.sendall(b"GET /metrics")
        assert scraped.stop() == 0
    assert time.monotonic() - began < SCRAPE_S, "by then it would have been cut off"


def test_scrapers_that_dribble_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SCRAPE_S", 0.3)
    endpoint = metrics.Metrics("127.0.0.1", 0)
    port = endpoint._server.server_address[1]
    try:
        for _ in range(2 * metrics.SCRAPES_MAX):  # they do not use up the places either
            slow = socket.create_connection(("127.0.0.1", port), timeout=60)
            with slow, suppress(ConnectionError):  # where it was cut off before anything of it was read
                slow.sendall(b"GET /metrics HT")
                assert slow.recv(100) == b""
    finally:
        endpoint.close()
