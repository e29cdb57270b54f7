/** Log drivers and mounts of images as services and the cluster's defaults have them, on a cluster of one. */
import assert from "node:assert/strict";
import * as fs from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { busyboxTar } from "../../bench/test-image.ts";
import { SoakDaemon } from "../soak/soak-daemon.ts";
import { readSyslog } from "./support/log-readers.ts";
import { UnixDatagramReceiver } from "./support/log-receivers.ts";
import { until, WAIT_MS } from "./support/wait.ts";

const ADDRESS = "10.91.0.1";

test("tasks log to the driver of their service, else to the cluster's, and see the images that they mount", async () => {
  const root = await fs.mkdtemp(path.join(tmpdir(), "shoal-service-logs-"));
  const daemon = await SoakDaemon.open(root);
  const at = path.join(root, "collector.sock");
  const receiver = new UnixDatagramReceiver(at);
  const ask = async (method: string, target: string, body?: Uint8Array | object): Promise<unknown> => {
    const answer = await daemon.call(method, target, body);
    const text = answer.body.toString();
    if (answer.status >= 300) throw new Error(`${answer.status} ${text}`);
    return /^[[{"]/.test(text) ? JSON.parse(text.split("\n")[0] ?? "") : undefined;
  };
  const LogDriver = { Name: "syslog", Options: { "syslog-address": `unixgram://${at}`, tag: "{{.Name}}" } };
  const service = (
    Name: string,
    script: string,
    more: object,
    Mounts: readonly object[] = [],
  ): Promise<unknown> =>
    ask("POST", "/services/create", {
      Name,
      TaskTemplate: {
        ContainerSpec: { Image: "box:1", Command: ["sh", "-c", script], Mounts },
        RestartPolicy: { Condition: "none" },
        ...more,
      },
    });
  const told = (): readonly string[] =>
    receiver.received
      .map((bytes) => readSyslog(bytes, "local"))
      .map(({ tag, text }) => `${tag.split(".")[0]}: ${text}`);
  try {
    daemon.inside("ip", "address", "add", `${ADDRESS}/32`, "dev", "lo");
    daemon.start();
    await ask("POST", "/images/create?fromSrc=-&repo=box&tag=1", busyboxTar());
    await ask("POST", "/swarm/init", { ListenAddr: `${ADDRESS}:2377`, AdvertiseAddr: ADDRESS });
    const image = { Type: "image", Source: "box:1", Target: "/tools", ImageOptions: { Subpath: "bin" } };
    await service("own", "test -x /tools/busybox && echo mounted", { LogDriver }, [image]);
    await until("the service's line came", WAIT_MS, () => told().includes("own: mounted"));

    await assert.rejects(
      service("wrong", "true", { LogDriver: { Name: "syslog", Options: { "syslog-port": "1" } } }),
      /400 .*TaskTemplate\.LogDriver: unknown log opt 'syslog-port' for syslog log driver: want one of .*, got \\"1\\"/,
    );
    const { Version, Spec } = (await ask("GET", "/swarm")) as { Version: { Index: number }; Spec: object };
    await ask("POST", `/swarm/update?version=${Version.Index}`, { ...Spec, TaskDefaults: { LogDriver } });
    await service("plain", "echo by default", {});
    await service("other", "echo elsewhere", { LogDriver: { Name: "json-file" } });
    await until("the default's line came", WAIT_MS, () => told().includes("plain: by default"));
    const logs = async (name: string): Promise<string> =>
      (await daemon.call("GET", `/services/${name}/logs?stdout=1`)).body.toString();
    await until("its log is kept here, too", WAIT_MS, async () => /by default/.test(await logs("plain")));
    await until("the other's is here alone", WAIT_MS, async () => /elsewhere/.test(await logs("other")));
    assert.deepEqual(told().toSorted(), ["own: mounted", "plain: by default"]);

    await service("silent", "echo nowhere && sleep 600", { LogDriver: { Name: "none" } });
    await until("it runs", WAIT_MS, async () => {
      const [task] = (await ask("GET", '/tasks?filters={"service":["silent"]}')) as readonly {
        readonly Status: { readonly State: string };
      }[];
      return task?.Status.State === "running";
    });
    assert.equal(await logs("silent"), "", "no lines, and no word of a node that were not available");
    for (const name of ["own", "plain", "other", "silent"]) await ask("DELETE", `/services/${name}`);
    await ask("POST", "/swarm/leave?force=1");
  } finally {
    await daemon.stop();
    daemon.close();
    await receiver.stop();
    await fs.rm(root, { recursive: true, force: true });
  }
});
