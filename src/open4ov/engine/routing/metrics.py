"""Counters of a router, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from open4ov.engine.routing.nodes import Nodes


@dataclass
class RouterMetrics:
    """`affinity`: answers by kind of key (session, image, prefix, none) and whether the key's own node gave them."""

    affinity: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    def text(self, nodes: Nodes) -> str:
        """All of it, and how the nodes stand now."""
        all_ = nodes.all.values()
        lines: list[str] = []

        def add(name: str, kind: str, values: dict[str, int]) -> None:
            lines.append(f"# TYPE open4ov:router_{name} {kind}")
            lines.extend(f"open4ov:router_{name}{{{labels}}} {value}" for labels, value in values.items())

        add("node_healthy", "gauge", {f'node="{node.url}"': int(node.healthy) for node in all_})
        add("requests_in_flight", "gauge", {f'node="{node.url}"': node.in_flight for node in all_})
        add("requests_total", "counter", {f'node="{node.url}"': node.requests for node in all_})
        add("retries_total", "counter", {f'node="{node.url}"': node.retries for node in all_})
        failures = {
            f'node="{node.url}",reason="{reason}"': count
            for node in all_
            for reason, count in sorted(node.failures.items())
        }
        add("failures_total", "counter", failures)
        affinity = {
            f'kind="{kind}",result="{result}"': count for (kind, result), count in sorted(self.affinity.items())
        }
        add("affinity_total", "counter", affinity)
        return "\n".join(lines) + "\n"
