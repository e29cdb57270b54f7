/** A running container's hosts file follows the networks that it is connected to. On a daemon with networks of its own. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { busyboxTar } from "../../bench/test-image.ts";
import { SoakDaemon } from "../soak/soak-daemon.ts";
import { until, WAIT_MS } from "./support/wait.ts";

test("/etc/hosts gets and loses a container's own lines, and keeps what it wrote there itself", async () => {
  const root = await fs.mkdtemp(path.join(tmpdir(), "shoal-hosts-"));
  const daemon = await SoakDaemon.open(root);
  const ask = async (
    method: string,
    target: string,
    body?: Uint8Array | object,
  ): Promise<Record<string, unknown>> => {
    const answer = await daemon.call(method, target, body);
    assert.ok(answer.status < 300, `${method} ${target}: ${answer.status} ${answer.body.toString()}`);
    const [text = ""] = answer.body.toString().split("\n");
    return (text.startsWith("{") ? JSON.parse(text) : {}) as Record<string, unknown>;
  };
  try {
    daemon.start();
    await ask("POST", "/images/create?fromSrc=-&repo=box&tag=1", busyboxTar());
    for (const [Name, Subnet] of [
      ["one", "10.81.0.0/24"],
      ["two", "10.82.0.0/24"],
    ])
      await ask("POST", "/networks/create", { Name, IPAM: { Config: [{ Subnet }] } });
    await ask("POST", "/containers/create?name=app", {
      Image: "box:1",
      Cmd: ["sh", "-c", "echo '192.0.2.9 mine' >> /etc/hosts; sleep 600"],
      Hostname: "app",
      Domainname: "example.test",
      HostConfig: { NetworkMode: "one", ExtraHosts: ["extra:192.0.2.1"] },
    });
    await ask("POST", "/containers/app/start");
    const file = String((await ask("GET", "/containers/app/json"))["HostsPath"] as string);
    const own = (): readonly string[] =>
      readFileSync(file, "utf8")
        .split("\n")
        .filter((line) => /^(?:10|192)\./.test(line))
        .map((line) => line.replace("\t", " "));
    const [first, second] = ["10.81.0.2 app.example.test app", "10.82.0.2 app.example.test app"];
    const fixed = ["192.0.2.1 extra", "192.0.2.9 mine"];
    await until("the container has written", WAIT_MS, () => own().includes("192.0.2.9 mine"));
    assert.deepEqual(own(), [first, ...fixed]);
    await ask("POST", "/networks/two/connect", { Container: "app" });
    assert.deepEqual(own(), [first, ...fixed, second]);
    await ask("POST", "/networks/one/disconnect", { Container: "app" });
    assert.deepEqual(own(), [...fixed, second]);
    await ask("POST", "/networks/two/disconnect", { Container: "app" });
    assert.deepEqual(own(), fixed);
    await ask("DELETE", "/containers/app?force=1");
  } finally {
    await daemon.stop();
    daemon.close();
    await fs.rm(root, { recursive: true, force: true });
  }
});
