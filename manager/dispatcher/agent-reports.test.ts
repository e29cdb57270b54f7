import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../../common/errors.ts";
import { parseAddresses, parseDescription, parseGuests, parseTaskStatus } from "./agent-reports.ts";
import { GUEST_COUNT_MAX, GUEST_NAME_COUNT_MAX } from "./limits.ts";

const encoder = new TextEncoder();

function json(value: unknown): Uint8Array {
  return encoder.encode(JSON.stringify(value));
}

const STATUS = {
  state: 512,
  timestamp: "2026-11-22T01:02:03.123456789Z",
  message: "started",
  err: "",
  ranAt: "2026-11-22T01:02:03.123456789Z",
  container: { containerId: "c".repeat(64), pid: 7, exitCode: 0 },
  meshIp: "100.64.0.2",
  ports: [{ Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "host" }],
};

const DESCRIPTION = {
  Hostname: "host1",
  Platform: { Architecture: "x86_64", OS: "linux" },
  Resources: {
    NanoCPUs: 2e9,
    MemoryBytes: 2 ** 34,
    GenericResources: [
      { NamedResourceSpec: { Kind: "GPU", Value: "uuid1" } },
      { DiscreteResourceSpec: { Kind: "SSD", Value: 3 } },
    ],
  },
  Engine: {
    EngineVersion: "1.0.0",
    Labels: { zone: "a" },
    Plugins: [{ Type: "Volume", Name: "local" }],
  },
  TLSInfo: { TrustRoot: "PEM", CertIssuerSubject: "s", CertIssuerPublicKey: "k" },
};

function refuses(run: () => unknown, what: string): void {
  assert.throws(run, (caught) => hasCode(caught, "invalid_argument"), what);
}

test("what a node truly reports is read as it is, without what nobody knows", () => {
  assert.deepEqual(parseTaskStatus(json({ ...STATUS, extra: { deep: 1 } })), STATUS);
  assert.deepEqual(parseTaskStatus(json({ ...STATUS, meshIp: "" })), { ...STATUS, meshIp: "" });
  assert.deepEqual(parseDescription(json({ ...DESCRIPTION, extra: 1 })), DESCRIPTION);
  assert.equal(parseDescription(new Uint8Array()), undefined);
  assert.deepEqual(
    parseAddresses({ rpcAddress: "[fd00::1]:2377", dataPathAddress: "fd00::1", addr: "h-1.x" }),
    {
      rpcAddress: "[fd00::1]:2377",
      dataPathAddress: "fd00::1",
      addr: "h-1.x",
    },
  );
  assert.deepEqual(parseAddresses({ rpcAddress: "", addr: "" }), {});
});

test("a status that is none is refused, with whatever field it lies", () => {
  const bad: readonly object[] = [
    { state: "512" },
    { state: -1 },
    { state: 1e9 },
    { state: 1.5 },
    { state: null },
    { timestamp: "yesterday" },
    { timestamp: 7 },
    { ranAt: "2026-99-99T00:00:00Z" },
    { message: {} },
    { err: null },
    { container: null },
    { container: { containerId: "../../x", pid: 1, exitCode: 0 } },
    { container: { containerId: "c", pid: "1", exitCode: 0 } },
    { meshIp: "100.64.0.2 }; flush ruleset; add table ip x" },
    { meshIp: "fd00::1" },
    { meshIp: ["100.64.0.2"] },
    { ports: {} },
    { ports: [null] },
    { ports: [{ ...STATUS.ports[0], PublishedPort: 70_000 }] },
    { ports: [{ ...STATUS.ports[0], Protocol: "tcp } }" }] },
    { ports: Array.from({ length: 5_000 }, () => STATUS.ports[0]) },
  ];
  for (const fault of bad) {
    refuses(() => parseTaskStatus(json({ ...STATUS, ...fault })), JSON.stringify(fault).slice(0, 80));
  }
  for (const whole of [null, 7, "x", [], [STATUS]])
    refuses(() => parseTaskStatus(json(whole)), JSON.stringify(whole));
  for (const text of ["", "{", "[".repeat(50_000), '{"state":512,"state"']) {
    refuses(() => parseTaskStatus(encoder.encode(text)), text.slice(0, 20));
  }
  refuses(() => parseTaskStatus(new Uint8Array([0x22, 0xff, 0x22])), "no UTF-8");
  refuses(() => parseTaskStatus(json({ ...STATUS, extra: "x".repeat(1_000_000) })), "too long");
});

test("words for people in a status are cut to what every replica can keep", () => {
  assert.equal(parseTaskStatus(json({ ...STATUS, err: "e".repeat(100_000) })).err.length, 4_096);
});

test("a description that is none is refused, with whatever field it lies", () => {
  const bad: readonly object[] = [
    { Hostname: null },
    { Hostname: "h".repeat(300) },
    { Platform: null },
    { Platform: { OS: "linux" } },
    { Resources: undefined },
    { Resources: { NanoCPUs: "2", MemoryBytes: 1 } },
    { Resources: { NanoCPUs: -1, MemoryBytes: 1 } },
    { Resources: { ...DESCRIPTION.Resources, GenericResources: [null] } },
    { Engine: { EngineVersion: "1", Labels: { a: 1 } } },
    { Engine: { EngineVersion: "1", Plugins: "all" } },
    { TLSInfo: "none" },
  ];
  for (const fault of bad) {
    refuses(() => parseDescription(json({ ...DESCRIPTION, ...fault })), JSON.stringify(fault).slice(0, 80));
  }
  refuses(() => parseDescription(json({ ...DESCRIPTION, extra: "x".repeat(100_000) })), "too long");
});

test("keys that JavaScript gives a meaning are keys like others", () => {
  const labels = JSON.parse('{"__proto__": "a", "constructor": "b"}') as object;
  const parsed = parseDescription(json({ ...DESCRIPTION, Engine: { EngineVersion: "1", Labels: labels } }));
  assert.deepEqual(Object.entries(parsed?.Engine.Labels ?? {}), [
    ["__proto__", "a"],
    ["constructor", "b"],
  ]);
});

test("addresses of a node are addresses and nothing else", () => {
  for (const hello of [
    { rpcAddress: "host" },
    { rpcAddress: "a b:1" },
    { rpcAddress: "unix:/run/x:1" },
    { dataPathAddress: "host" },
    { dataPathAddress: "10.0.0.1, 10.0.0.2" },
    { dataPathAddress: "10.0.0.1/8" },
    { addr: "a\nb" },
    { addr: "a".repeat(300) },
  ]) {
    refuses(() => parseAddresses(hello), JSON.stringify(hello).slice(0, 80));
  }
});

test("guests are bounded, and names and addresses that are none are left out", () => {
  const guest = { containerId: "c1", networkId: "n1" };
  assert.deepEqual(parseGuests([{ ...guest, names: ["a", "b".repeat(300)], address: "10.0.0.1; drop" }]), [
    { ...guest, names: ["a"], wanted: "" },
  ]);
  assert.equal(parseGuests(Array.from({ length: 5_000 }, () => guest)).length, GUEST_COUNT_MAX);
  refuses(() => parseGuests([{ ...guest, networkId: "n1 } x" }]), "network");
  refuses(() => parseGuests([{ ...guest, containerId: "a/b" }]), "container");
  const names = Array.from({ length: GUEST_NAME_COUNT_MAX }, () => "n".repeat(255));
  refuses(() => parseGuests(Array.from({ length: GUEST_COUNT_MAX }, () => ({ ...guest, names }))), "names");
});
