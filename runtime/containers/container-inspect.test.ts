import assert from "node:assert/strict";
import { test } from "node:test";
import { linksOf, portMap } from "./container-inspect.ts";
import { INITIAL_STATE, type ContainerRecord } from "./container-record.ts";

const RECORD: ContainerRecord = {
  id: "c1",
  name: "web",
  created: "2026-01-01T00:00:00.000000001Z",
  image: "app:1",
  imageId: "sha256:1",
  config: { Image: "app:1", ExposedPorts: { "80/tcp": {}, "9090/tcp": {} } },
  hostConfig: { NetworkMode: "bridge" },
  networkingConfig: null,
  mounts: [],
  state: { ...INITIAL_STATE, status: "running" },
  restartCount: 0,
  isStoppedByUser: false,
  network: null,
  isNetworkOfTask: false,
};

test("portMap() names what is exposed and not published with null, while the container runs on a network of its own", () => {
  const bindings = [{ HostIp: "0.0.0.0", HostPort: "8080" }];
  const network = {
    endpoints: {},
    nameservers: [],
    searchDomains: [],
    dnsOptions: [],
    hosts: [],
    sandboxId: "",
    ports: { "80/tcp": bindings },
  };
  assert.deepEqual(portMap({ ...RECORD, network }), { "80/tcp": bindings, "9090/tcp": null });
  assert.deepEqual(portMap({ ...RECORD, state: INITIAL_STATE }), {});
  for (const NetworkMode of ["host", "none", "container:other"])
    assert.deepEqual(portMap({ ...RECORD, hostConfig: { NetworkMode } }), {});
});

test("linksOf() has Docker's form on the default bridge, and none elsewhere", () => {
  const linked = (NetworkMode: string): ContainerRecord => ({
    ...RECORD,
    hostConfig: { NetworkMode, Links: ["db:database", "cache"] },
  });
  for (const mode of ["default", "bridge"])
    assert.deepEqual(linksOf(linked(mode)), ["/db:/web/database", "/cache:/web/cache"]);
  assert.equal(linksOf(linked("app")), null);
  assert.equal(linksOf(RECORD), null);
});
