/** Backups of the cluster's state under /shoal/v1: taking one, and starting a cluster from one instead of `swarm init`. */
import type { Readable } from "node:stream";
import { ClusterError } from "../../common/errors.ts";
import { managerOf, type ApiContext } from "../context.ts";
import { badParameter } from "../error-body.ts";
import type { Exchange } from "../exchange.ts";
import { get, post, type Route } from "./table.ts";

/** A backup is compressed; this holds far more than the manager's memory would. */
const BACKUP_BYTES_MAX = 1024 * 1024 * 1024;
const DEFAULT_LISTEN_ADDR = "0.0.0.0:2377";

async function backup(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  if (control.backup === undefined) throw new ClusterError("unimplemented", "This manager takes no backups");
  const file = await control.backup();
  const sink = exchange.stream("application/octet-stream", { "Content-Length": String(file.byteLength) });
  await sink.write(file);
  sink.end();
}

async function readAll(body: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    chunks.push(chunk as Buffer);
    bytes += (chunk as Buffer).byteLength;
    if (bytes > BACKUP_BYTES_MAX) throw badParameter(`backup must be at most ${BACKUP_BYTES_MAX} bytes`);
  }
  return Buffer.concat(chunks, bytes);
}

async function restore(exchange: Exchange, context: ApiContext): Promise<void> {
  const { query } = exchange;
  const nodeId = await context.swarm.init({
    listenAddr: query.text("listenAddr") || DEFAULT_LISTEN_ADDR,
    advertiseAddr: query.text("advertiseAddr"),
    dataPathAddr: query.text("dataPathAddr"),
    dataPathPort: 0,
    defaultAddrPool: [],
    subnetSize: 0,
    forceNewCluster: false,
    availability: "active",
    autoLockManagers: false,
    spec: undefined,
    restore: await readAll(exchange.body()),
  });
  context.events.follow();
  exchange.send(200, nodeId);
}

export const BACKUP_ROUTES: readonly Route[] = [
  get("/shoal/v1/swarm/backup", backup),
  post("/shoal/v1/swarm/restore", restore),
];
