import assert from "node:assert/strict";
import { test } from "node:test";
import { MetricsRegistry } from "./metrics.ts";

test("MetricsRegistry writes counters, gauges and histograms as Prometheus text", () => {
  const registry = new MetricsRegistry();
  const requests = registry.counter("requests_total", "Requests");
  requests.add(1, { route: 'a"b\\' });
  requests.add(2, { route: 'a"b\\' });
  registry.histogram("wait_seconds", "Wait", [0.1, 1]).observe(0.5);
  const size = registry.gauge("size_bytes", "Size");
  registry.onCollect(() => size.set(7));
  assert.equal(
    registry.text(),
    [
      "# HELP requests_total Requests",
      "# TYPE requests_total counter",
      'requests_total{route="a\\"b\\\\"} 3',
      "# HELP wait_seconds Wait",
      "# TYPE wait_seconds histogram",
      'wait_seconds_bucket{le="0.1"} 0',
      'wait_seconds_bucket{le="1"} 1',
      'wait_seconds_bucket{le="+Inf"} 1',
      "wait_seconds_sum 0.5",
      "wait_seconds_count 1",
      "# HELP size_bytes Size",
      "# TYPE size_bytes gauge",
      "size_bytes 7",
      "",
    ].join("\n"),
  );
});

test("MetricsRegistry bounds the series of a metric", () => {
  const registry = new MetricsRegistry();
  const counter = registry.counter("hits_total", "Hits");
  for (let index = 0; index < 5000; index += 1) counter.add(1, { path: String(index) });
  const text = registry.text();
  assert.ok(text.split("\n").length < 1100);
  assert.match(text, /hits_total\{overflow="true"\} 4000/);
});
