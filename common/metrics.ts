/**
 * A registry of counters, gauges and histograms and its Prometheus text. The daemon makes one and hands it to its parts;
 * there is no global one. Series are bounded for each metric, so that a label taken from outside can't fill the memory.
 */
export type MetricLabels = Readonly<Record<string, string>>;
export type MetricKind = "counter" | "gauge" | "histogram";

export interface Counter {
  add(amount?: number, labels?: MetricLabels): void;
}
export interface Gauge {
  set(value: number, labels?: MetricLabels): void;
  /** Forgets all series, so that what is gone is not shown for ever. */
  clear(): void;
}
export interface Histogram {
  observe(value: number, labels?: MetricLabels): void;
}

/** Series of one metric; later label sets are counted under `{overflow="true"}`. */
const SERIES_COUNT_MAX = 1000;
const OVERFLOW: MetricLabels = { overflow: "true" };
/** Seconds; from a memory access to a slow pull. */
const DURATION_BUCKETS_SECONDS: readonly number[] = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
];
const NAME = /^[a-z_][a-z0-9_]*$/;

interface Series {
  readonly labels: MetricLabels;
  value: number;
  /** Histograms only: how many observations fell into each bucket, and their count. */
  readonly buckets: number[];
  count: number;
}

function escapeLabel(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

function labelText(labels: MetricLabels): string {
  const parts = Object.entries(labels).map(([key, value]) => `${key}="${escapeLabel(value)}"`);
  return parts.length === 0 ? "" : `{${parts.join(",")}}`;
}

class Metric {
  readonly #series = new Map<string, Series>();
  readonly name: string;
  readonly help: string;
  readonly kind: MetricKind;
  readonly bounds: readonly number[];

  constructor(name: string, help: string, kind: MetricKind, bounds: readonly number[]) {
    this.name = name;
    this.help = help;
    this.kind = kind;
    this.bounds = bounds;
  }

  clear(): void {
    this.#series.clear();
  }

  at(labels: MetricLabels): Series {
    const key = labelText(labels);
    const found = this.#series.get(key);
    if (found !== undefined) return found;
    if (this.#series.size >= SERIES_COUNT_MAX && labels !== OVERFLOW) return this.at(OVERFLOW);
    const series: Series = { labels, value: 0, count: 0, buckets: this.bounds.map(() => 0) };
    this.#series.set(key, series);
    return series;
  }

  observe(value: number, labels: MetricLabels): void {
    const series = this.at(labels);
    series.value += value;
    series.count += 1;
    const bucket = this.bounds.findIndex((bound) => value <= bound);
    if (bucket >= 0) series.buckets[bucket] = (series.buckets[bucket] ?? 0) + 1;
  }

  text(): string {
    const lines = [`# HELP ${this.name} ${this.help}`, `# TYPE ${this.name} ${this.kind}`];
    for (const series of this.#series.values()) {
      if (this.kind === "histogram") lines.push(...this.#histogramLines(series));
      else lines.push(`${this.name}${labelText(series.labels)} ${series.value}`);
    }
    return `${lines.join("\n")}\n`;
  }

  #histogramLines(series: Series): string[] {
    const lines: string[] = [];
    let seen = 0;
    for (const [index, bound] of this.bounds.entries()) {
      seen += series.buckets[index] ?? 0;
      lines.push(`${this.name}_bucket${labelText({ ...series.labels, le: String(bound) })} ${seen}`);
    }
    lines.push(`${this.name}_bucket${labelText({ ...series.labels, le: "+Inf" })} ${series.count}`);
    lines.push(`${this.name}_sum${labelText(series.labels)} ${series.value}`);
    lines.push(`${this.name}_count${labelText(series.labels)} ${series.count}`);
    return lines;
  }
}

export class MetricsRegistry {
  readonly #metrics = new Map<string, Metric>();
  readonly #collectors: (() => void)[] = [];

  /** `name` ends in its unit or _total; the same name twice is the same metric. */
  counter(name: string, help: string): Counter {
    const metric = this.#metric(name, help, "counter", []);
    return { add: (amount = 1, labels = {}) => void (metric.at(labels).value += amount) };
  }

  gauge(name: string, help: string): Gauge {
    return this.#settable(name, help, "gauge");
  }

  /** A counter that is kept elsewhere and read when it is asked for: set() takes what it has come to. */
  total(name: string, help: string): Gauge {
    return this.#settable(name, help, "counter");
  }

  histogram(name: string, help: string, bounds: readonly number[] = DURATION_BUCKETS_SECONDS): Histogram {
    const metric = this.#metric(name, help, "histogram", bounds);
    return { observe: (value, labels = {}) => metric.observe(value, labels) };
  }

  /** `collect` runs before each text(): for gauges that are read rather than kept. It must not throw. */
  onCollect(collect: () => void): void {
    this.#collectors.push(collect);
  }

  /** Prometheus text format 0.0.4. */
  text(): string {
    for (const collect of this.#collectors) collect();
    return [...this.#metrics.values()].map((metric) => metric.text()).join("");
  }

  #settable(name: string, help: string, kind: MetricKind): Gauge {
    const metric = this.#metric(name, help, kind, []);
    return {
      set: (value, labels = {}) => void (metric.at(labels).value = value),
      clear: () => metric.clear(),
    };
  }

  #metric(name: string, help: string, kind: MetricKind, bounds: readonly number[]): Metric {
    const found = this.#metrics.get(name);
    if (found !== undefined) return found;
    if (!NAME.test(name))
      throw new TypeError(`Cannot register metric ${JSON.stringify(name)}: wanted a-z, 0-9 and _`);
    const metric = new Metric(name, help, kind, bounds);
    this.#metrics.set(name, metric);
    return metric;
  }
}
