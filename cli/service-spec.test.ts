/** Service specs from flags: creation, and updates that change only what was asked. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { ServiceSpec } from "../model/specs.ts";
import { Flags } from "./command.ts";
import { createServiceSpec, updateServiceSpec } from "./service-spec.ts";

const lookup = {
  networkId: async (name: string) => `net-${name}`,
  secretId: async (name: string) => `sec-${name}`,
  configId: async (name: string) => `cfg-${name}`,
};
const options = { lookup, env: { HOME: "/root" } };
const flags = (values: Record<string, string | boolean | readonly string[]>): Flags =>
  new Flags(new Map(Object.entries(values)));

test("createServiceSpec() without flags says only image, name and mode", async () => {
  assert.deepEqual(await createServiceSpec(["nginx", "sleep", "1"], flags({ name: "web" }), options), {
    Name: "web",
    TaskTemplate: { ContainerSpec: { Image: "nginx", Args: ["sleep", "1"] } },
    Mode: { Replicated: {} },
  });
});

test("createServiceSpec() reads flags into the API's fields", async () => {
  const spec = await createServiceSpec(
    ["nginx"],
    flags({
      replicas: "3",
      publish: ["8080:80", "published=53,target=53,protocol=udp,mode=host"],
      env: ["A=1", "HOME", "UNSET"],
      "limit-memory": "64M",
      "limit-cpu": "0.5",
      "update-order": "start-first",
      "health-cmd": "true",
      "health-interval": "2s",
      network: ["name=back,alias=w"],
      secret: ["source=key,target=/k,mode=0400"],
      host: ["db:10.0.0.1"],
      "cap-add": ["net_admin"],
      constraint: ["node.role==worker"],
      mount: ["type=volume,source=data,target=/d,readonly"],
    }),
    options,
  );
  assert.deepEqual(spec.Mode, { Replicated: { Replicas: 3 } });
  assert.deepEqual(spec.EndpointSpec?.Ports, [
    { Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "ingress" },
    { Protocol: "udp", TargetPort: 53, PublishedPort: 53, PublishMode: "host" },
  ]);
  const container = spec.TaskTemplate.ContainerSpec;
  assert.deepEqual(container.Env, ["A=1", "HOME=/root"]);
  assert.deepEqual(container.Hosts, ["10.0.0.1 db"]);
  assert.deepEqual(container.CapabilityAdd, ["CAP_NET_ADMIN"]);
  assert.deepEqual(container.Healthcheck, { Test: ["CMD-SHELL", "true"], Interval: 2e9 });
  assert.deepEqual(container.Secrets, [
    { SecretID: "sec-key", SecretName: "key", File: { Name: "/k", UID: "0", GID: "0", Mode: 0o400 } },
  ]);
  assert.deepEqual(container.Mounts, [{ Type: "volume", Source: "data", Target: "/d", ReadOnly: true }]);
  assert.deepEqual(spec.TaskTemplate.Resources, { Limits: { NanoCPUs: 5e8, MemoryBytes: 64 * 1024 ** 2 } });
  assert.deepEqual(spec.TaskTemplate.Networks, [{ Target: "net-back", Aliases: ["w"] }]);
  assert.deepEqual(spec.UpdateConfig, { Parallelism: 1, Order: "start-first" });
});

test("updateServiceSpec() changes what was asked and nothing else", async () => {
  const current: ServiceSpec = {
    Name: "web",
    Labels: { keep: "1", drop: "2" },
    TaskTemplate: {
      ContainerSpec: { Image: "nginx:1", Env: ["A=1", "B=2"], Mounts: [{ Target: "/a" }, { Target: "/b" }] },
      ForceUpdate: 4,
    },
    Mode: { Replicated: { Replicas: 2 } },
    EndpointSpec: { Mode: "vip", Ports: [{ TargetPort: 80, PublishedPort: 8080 }] },
  };
  const before = structuredClone(current);
  const spec = await updateServiceSpec(
    current,
    flags({
      image: "nginx:2",
      "env-add": ["B=3"],
      "env-rm": ["A"],
      "label-rm": ["drop"],
      "mount-rm": ["/a"],
      "publish-rm": ["80"],
      "publish-add": ["9090:90"],
      force: true,
    }),
    options,
  );
  assert.deepEqual(current, before);
  assert.deepEqual(spec, {
    Name: "web",
    Labels: { keep: "1" },
    TaskTemplate: {
      ContainerSpec: { Image: "nginx:2", Env: ["B=3"], Mounts: [{ Target: "/b" }] },
      ForceUpdate: 5,
    },
    Mode: { Replicated: { Replicas: 2 } },
    EndpointSpec: {
      Mode: "vip",
      Ports: [{ Protocol: "tcp", TargetPort: 90, PublishedPort: 9090, PublishMode: "ingress" }],
    },
  });
});

test("bad flag values are refused with the flag's name", async () => {
  const bad: readonly Record<string, string | readonly string[]>[] = [
    { replicas: "-1" },
    { "limit-memory": "lots" },
    { "update-order": "sideways" },
    { publish: ["99999:80"] },
    { publish: ["1-3:5-6"] },
    { mount: ["type=volume"] },
    { mode: "global", replicas: "2" },
    { secret: ["source=a,nope=b"] },
  ];
  for (const each of bad) {
    await assert.rejects(
      createServiceSpec(["x"], flags(each), options),
      { name: "ClusterError" },
      JSON.stringify(each),
    );
  }
});

test("createServiceSpec() names the modes that a flag is for", async () => {
  const make = (given: Record<string, string>): Promise<unknown> =>
    createServiceSpec(["nginx"], flags({ name: "web", ...given }), options);
  await assert.rejects(make({ "max-concurrent": "2" }), /mode must be replicated-job$/);
  await assert.rejects(make({ replicas: "2", mode: "global" }), /mode must be replicated or replicated-job$/);
});
