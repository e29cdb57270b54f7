/** Refuses requests that a web page made a browser send, and changes on read-only listeners. Pure checks of the head. */
import type { IncomingMessage } from "node:http";
import { ClusterError } from "../common/errors.ts";

const READING = new Set(["GET", "HEAD"]);

/**
 * Docker clients send no Origin; browsers do for everything that could change something. A page from elsewhere must not
 * drive an engine that listens on the visitor's machine.
 */
export function checkOrigin(request: IncomingMessage): void {
  const { origin, host } = request.headers;
  if (origin === undefined) return;
  let originHost: string | undefined;
  try {
    originHost = new URL(origin).host;
  } catch {
    originHost = undefined;
  }
  if (originHost === undefined || originHost !== host) {
    throw new ClusterError(
      "permission_denied",
      `Cannot take a request from the web origin ${JSON.stringify(origin)}`,
    );
  }
}

export function checkReadOnly(request: IncomingMessage): void {
  const isUpgrade = request.headers.upgrade !== undefined;
  if (READING.has(request.method ?? "") && !isUpgrade) return;
  throw new ClusterError(
    "permission_denied",
    "This listener is read-only: nothing can be changed through it",
  );
}
