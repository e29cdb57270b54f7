import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { type Duplex, PassThrough } from "node:stream";
import { after, test } from "node:test";
import { AgentSocket } from "./agent-socket.ts";

const root = mkdtempSync(path.join(tmpdir(), "shoal-agent-"));
after(() => rmSync(root, { recursive: true, force: true }));

const access = { mode: 0o600, uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };

test("AgentSocket takes what a command says to an agent of its own and back, and is gone when closed", async () => {
  const agents: Duplex[] = [];
  const socket = await AgentSocket.open(path.join(root, "one"), access, () => {
    // Says what it is told.
    const agent = new PassThrough();
    agents.push(agent);
    return agent;
  });
  assert.equal(statSync(socket.file).mode & 0o777, 0o600);
  const commands = ["first", "second"].map((text) => ({ text, command: connect(socket.file) }));
  for (const { text, command } of commands) {
    command.write(text);
    assert.equal(String((await once(command, "data"))[0]), text);
  }
  assert.equal(agents.length, 2);
  const closed = Promise.all(commands.map(({ command }) => once(command.resume(), "close")));
  socket.close();
  await closed;
  assert.ok(!existsSync(socket.file));
});

test("AgentSocket hangs up on a command when there is no agent any more", async () => {
  const socket = await AgentSocket.open(path.join(root, "two"), access, () => {
    throw new Error("gone");
  });
  const command = connect(socket.file);
  await once(command.resume(), "close");
  socket.close();
});
