/** Ports that tasks have for themselves on a node, with real sockets on free ports. */
import assert from "node:assert/strict";
import { createServer, type Server } from "node:net";
import { test } from "node:test";
import { hasCode } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import { freePort } from "../../common/testing/free-port.ts";
import { HostPorts } from "./host-ports.ts";
import type { MeshTask } from "./mesh.ts";

function listen(port: number): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen({ host: "0.0.0.0", port }, () => resolve(server));
  });
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()));
}

function task(id: string, ...ports: readonly number[]): MeshTask {
  return {
    id,
    ports: ports.map((port) => ({
      Protocol: "tcp",
      TargetPort: 80,
      PublishedPort: port,
      PublishMode: "host",
    })),
  };
}

test("HostPorts.take() keeps others off the port until release()", async () => {
  const ports = new HostPorts(silentLogger);
  const port = await freePort("0.0.0.0");
  await ports.take(task("a", port), "10.0.0.1");
  await ports.take(task("a", port), "10.0.0.1");
  await assert.rejects(listen(port), /EADDRINUSE/);
  await assert.rejects(ports.take(task("b", port), "10.0.0.2"), /Cannot publish port/);
  await ports.release("a");
  await close(await listen(port));
  await ports.close();
});

test("HostPorts.take() rejects and holds nothing if one of the ports is taken; adopt() goes on", async () => {
  const ports = new HostPorts(silentLogger);
  const taken = await freePort("0.0.0.0");
  const other = await listen(taken);
  const free = await freePort("0.0.0.0");
  await assert.rejects(ports.take(task("a", free, taken), "10.0.0.1"), (caught) =>
    hasCode(caught, "failed_precondition"),
  );
  await close(await listen(free));
  await ports.adopt(task("a", taken), "10.0.0.1");
  await close(other);
  await ports.close();
});
