/** Refuses requests that a web page made a browser send, and changes on read-only listeners. Pure checks of the head. */
import type { IncomingMessage } from "node:http";
import { isIP } from "node:net";
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

/** Heads that browsers send and that a page's scripts can change but not leave out. */
const BROWSER_HEADS = ["origin", "sec-fetch-site", "sec-fetch-mode", "accept-language"];

/** Names that can only mean this machine, whatever a name server says. */
function isOwnName(hostHeader: string, hostname: string): boolean {
  let name: string;
  try {
    name = new URL(`http://${hostHeader}`).hostname.toLowerCase();
  } catch {
    return false;
  }
  const own = hostname.toLowerCase();
  return (
    isIP(name.replace(/^\[|\]$/g, "")) !== 0 ||
    name === "localhost" ||
    name.endsWith(".localhost") ||
    // Not any name that begins so: those of other domains are theirs to give.
    [own, `${own}.local`, own.split(".")[0]].includes(name)
  );
}

/**
 * Against DNS rebinding: a page may give its own name this machine's address, and is then of one origin with an API on a
 * plain TCP listener. Browsers are served only under addresses and names that are this machine's own; programs, which no
 * page can drive, under any. TLS listeners need no such check: the certificate doesn't carry the page's name.
 */
export function checkHost(request: IncomingMessage, hostname: string): void {
  const isBrowser = BROWSER_HEADS.some((head) => request.headers[head] !== undefined);
  if (!isBrowser || isOwnName(request.headers.host ?? "", hostname)) return;
  throw new ClusterError(
    "permission_denied",
    `Cannot serve a browser under the name ${JSON.stringify(request.headers.host ?? "")}: use this machine's address or its name "${hostname}", or TLS`,
  );
}

export function checkReadOnly(request: IncomingMessage): void {
  const isUpgrade = request.headers.upgrade !== undefined;
  if (READING.has(request.method ?? "") && !isUpgrade) return;
  throw new ClusterError(
    "permission_denied",
    "This listener is read-only: nothing can be changed through it",
  );
}
