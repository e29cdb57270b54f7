/** What a folder of routes hands to the server: method, pattern, handler, and whether the connection may be handed over. */
import type { ApiContext } from "../context.ts";
import type { Exchange } from "../exchange.ts";

export type Handler = (exchange: Exchange, context: ApiContext) => Promise<void> | void;
export type Method = "GET" | "HEAD" | "POST" | "PUT" | "DELETE";

export interface Route {
  readonly method: Method;
  /** Docker's pattern without the version prefix; see router.ts. */
  readonly pattern: string;
  readonly handler: Handler;
  /** The handler may take the connection over: requests with an Upgrade header come to it unparsed. */
  readonly canHijack?: boolean;
}

export function get(pattern: string, handler: Handler): Route {
  return { method: "GET", pattern, handler };
}

export function post(pattern: string, handler: Handler): Route {
  return { method: "POST", pattern, handler };
}

export function put(pattern: string, handler: Handler): Route {
  return { method: "PUT", pattern, handler };
}

export function remove(pattern: string, handler: Handler): Route {
  return { method: "DELETE", pattern, handler };
}

export function head(pattern: string, handler: Handler): Route {
  return { method: "HEAD", pattern, handler };
}

export function hijacking(method: Method, pattern: string, handler: Handler): Route {
  return { method, pattern, handler, canHijack: true };
}
