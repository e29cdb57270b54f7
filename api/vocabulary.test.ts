import assert from "node:assert/strict";
import { test } from "node:test";
import type { JsonObject } from "../model/engine.ts";
import { canonical, ENGINE_FIELDS, SWARM_FIELDS } from "./vocabulary.ts";

test("canonical() restores the case of field names at every depth", () => {
  const body = {
    name: "web",
    tasktemplate: { containerspec: { image: "x", tty: true } },
    MODE: { replicated: { replicas: 2 } },
  };
  assert.deepEqual(canonical(body, SWARM_FIELDS), {
    Name: "web",
    TaskTemplate: { ContainerSpec: { Image: "x", TTY: true } },
    Mode: { Replicated: { Replicas: 2 } },
  });
  assert.deepEqual(canonical({ tty: true, hostconfig: { nanocpus: 5 } }, ENGINE_FIELDS), {
    Tty: true,
    HostConfig: { NanoCpus: 5 },
  });
});

test("canonical() leaves the keys of maps alone", () => {
  const body = {
    Labels: { image: "a", NAME: "b" },
    HostConfig: {
      LogConfig: { Type: "json-file", Config: { mode: "x", tag: "y" } },
      PortBindings: { "80/tcp": null },
    },
    NetworkingConfig: { EndpointsConfig: { name: { aliases: ["a"] }, other: null } },
  };
  assert.deepEqual(canonical(body, ENGINE_FIELDS), {
    Labels: { image: "a", NAME: "b" },
    HostConfig: {
      LogConfig: { Type: "json-file", Config: { mode: "x", tag: "y" } },
      PortBindings: { "80/tcp": null },
    },
    NetworkingConfig: { EndpointsConfig: { name: { Aliases: ["a"] }, other: {} } },
  });
});

test("canonical() reads null as absent, and a string where Docker takes one for a list", () => {
  assert.deepEqual(canonical({ Cmd: "ls", Entrypoint: null, Env: null }, ENGINE_FIELDS), { Cmd: ["ls"] });
});

test("canonical() tells the file of a credential spec, a name, from that of a secret", () => {
  const body = {
    ContainerSpec: {
      Privileges: { CredentialSpec: { file: "spec.json" } },
      Secrets: [{ SecretName: "key", file: { name: "key", uid: "1" } }],
    },
  };
  assert.deepEqual(canonical(body, SWARM_FIELDS), {
    ContainerSpec: {
      Privileges: { CredentialSpec: { File: "spec.json" } },
      Secrets: [{ SecretName: "key", File: { Name: "key", UID: "1" } }],
    },
  });
});

test("canonical() names field, wanted and got when a value has the wrong kind", () => {
  assert.throws(
    () => canonical({ Name: "x", taskTemplate: { containerSpec: { env: "A=1" } } }, SWARM_FIELDS),
    {
      code: "invalid_argument",
      message: 'invalid JSON: TaskTemplate.ContainerSpec.Env must be a list of strings, got "A=1"',
    },
  );
  assert.throws(() => canonical({ HostConfig: { NanoCpus: 1.5 } }, ENGINE_FIELDS), {
    code: "invalid_argument",
    message: "invalid JSON: HostConfig.NanoCpus must be a whole number of at most 63 bits, got 1.5",
  });
  for (const Memory of [1e30, 2 ** 63])
    assert.throws(
      () => canonical({ HostConfig: { Memory } }, ENGINE_FIELDS),
      /HostConfig.Memory must be a whole/,
    );
  const updateConfig = { Parallelism: 1, MaxFailureRatio: 0.25 };
  assert.deepEqual(canonical({ updateConfig }, SWARM_FIELDS), { UpdateConfig: updateConfig });
});

test("canonical() keeps fields it doesn't know, but no prototype and no endless depth", () => {
  assert.deepEqual(canonical({ Future: { x: 1 } }, SWARM_FIELDS), { Future: { x: 1 } });
  const hostile = JSON.parse('{"__proto__":{"polluted":true}}') as JsonObject;
  assert.equal(Object.getPrototypeOf(canonical(hostile, SWARM_FIELDS)), Object.prototype);
  let deep: JsonObject = {};
  for (let level = 0; level < 100; level += 1) deep = { Spec: deep };
  assert.throws(() => canonical(deep, SWARM_FIELDS), /nested deeper/);
});
