#!/usr/bin/env node
/**
 * A volume plugin in one file: folders below --root, served by Docker's volume plugin protocol on a UNIX socket.
 *
 *   node plugin.mjs --socket /run/shoal/plugins/folders.sock --root /srv/folders
 *   docker volume create -d folders --opt mode=0770 shared
 *
 * As a managed plugin, with Node.js in it: see build.sh. State is the folders themselves, so it may be stopped and started at any time.
 */
import { mkdirSync, readdirSync, rmSync, statSync, chmodSync } from "node:fs";
import { createServer } from "node:http";
import path from "node:path";
import { parseArgs } from "node:util";

const { values } = parseArgs({ options: { socket: { type: "string" }, root: { type: "string" } } });
if (values.socket === undefined || values.root === undefined) {
  console.error("usage: plugin.mjs --socket FILE --root FOLDER");
  process.exit(2);
}
const { socket, root } = values;
mkdirSync(root, { recursive: true });
mkdirSync(path.dirname(socket), { recursive: true });
rmSync(socket, { force: true });

function folderOf(name) {
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(name)) throw new Error(`bad volume name "${name}"`);
  return path.join(root, name);
}

function describe(name) {
  const folder = folderOf(name);
  const stats = statSync(folder, { throwIfNoEntry: false });
  if (stats === undefined) throw new Error(`volume "${name}" not found`);
  return {
    Name: name,
    Mountpoint: folder,
    CreatedAt: stats.birthtime.toISOString(),
    Status: { plugin: "folders" },
  };
}

const calls = {
  "/Plugin.Activate": () => ({ Implements: ["VolumeDriver"] }),
  "/VolumeDriver.Capabilities": () => ({ Capabilities: { Scope: "local" } }),
  "/VolumeDriver.Create": ({ Name, Opts }) => {
    mkdirSync(folderOf(Name), { recursive: true });
    const mode = Opts?.mode ?? process.env.MODE;
    if (mode !== undefined) chmodSync(folderOf(Name), Number.parseInt(mode, 8));
    return { Err: "" };
  },
  "/VolumeDriver.Remove": ({ Name }) => {
    rmSync(folderOf(Name), { recursive: true, force: true });
    return { Err: "" };
  },
  "/VolumeDriver.Mount": ({ Name }) => ({ Mountpoint: describe(Name).Mountpoint, Err: "" }),
  "/VolumeDriver.Path": ({ Name }) => ({ Mountpoint: describe(Name).Mountpoint, Err: "" }),
  "/VolumeDriver.Unmount": () => ({ Err: "" }),
  "/VolumeDriver.Get": ({ Name }) => ({ Volume: describe(Name), Err: "" }),
  "/VolumeDriver.List": () => ({ Volumes: readdirSync(root).map(describe), Err: "" }),
};

const server = createServer(async (request, response) => {
  let text = "";
  for await (const piece of request) text += piece;
  let status = 200;
  let answer;
  try {
    const call = calls[request.url];
    if (call === undefined) throw new Error(`no such call: ${request.url}`);
    answer = call(text === "" ? {} : JSON.parse(text));
  } catch (caught) {
    status = 500;
    answer = { Err: caught.message };
  }
  response.writeHead(status, { "Content-Type": "application/vnd.docker.plugins.v1.2+json" });
  response.end(JSON.stringify(answer));
});
server.listen(socket, () => console.log(`listening on ${socket}`));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => server.close(() => process.exit(0)));
