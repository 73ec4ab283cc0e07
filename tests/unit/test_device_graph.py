"""When a call is captured, replayed, executed and let go; against a graph that keeps count."""

from typing import Any

from mwc.runtime.device_graph import DeviceGraph


class FakeGraph:
    """Results say how often their graph has run."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal = refusal
        self.did: list[str] = []
        self.result = ["captured"]

    def execute(self, *inputs: object) -> list[str]:
        self.did.append("execute")
        return ["executed"]

    def capture(self, key: int, *inputs: object) -> list[str]:
        self.did.append(f"capture {key}")
        if self.refusal is not None:
            raise self.refusal
        return self.result

    def replay(self, key: int, *inputs: object) -> None:
        self.did.append(f"replay {key}")

    def release_captured_graph(self, key: int) -> None:
        self.did.append(f"release {key}")


def of(graph: FakeGraph, *arguments: object) -> DeviceGraph:
    given: Any = graph
    buffers: Any = arguments
    return DeviceGraph(given, 7, buffers)


def test_executed_once_then_captured_and_replayed() -> None:
    graph = FakeGraph()
    kept = of(graph, object())
    assert not kept.is_captured
    assert [kept.run() for _ in range(3)] == [["executed"], ["captured"], ["captured"]]
    assert kept.is_captured
    # What capturing computes is not relied on: its results are those of the replay after it.
    assert graph.did == ["execute", "capture 7", "replay 7", "replay 7"]
    assert kept.refusal is None


def test_what_cannot_be_captured_is_executed() -> None:
    graph = FakeGraph(RuntimeError("a copy to the host"))
    kept = of(graph, object())
    assert [kept.run() for _ in range(4)] == [["executed"]] * 4
    assert graph.did == ["execute", "capture 7", "execute", "execute", "execute"]
    assert kept.refusal == "a copy to the host"
    kept.release()
    assert graph.did[-1] == "execute"


def test_it_fits_its_own_buffers_only() -> None:
    one, two = [1.0], [1.0]
    kept = of(FakeGraph(), one, two)
    fits: Any = kept.fits
    assert fits([one, two])
    assert not fits([one, [1.0]])
    assert not fits([one])


def test_released_it_starts_anew() -> None:
    graph = FakeGraph()
    kept = of(graph, object())
    kept.release()  # nothing to let go yet
    kept.run()
    kept.run()
    kept.release()
    kept.release()
    assert graph.did[3:] == ["release 7"]
    kept.run()
    kept.run()
    assert graph.did[4:] == ["execute", "capture 7", "replay 7"]
