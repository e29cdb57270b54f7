/**
 * Node's HTTP client without an import of it: that reads all that the module exports, which makes Node load its
 * WebSocket and with that a second HTTP client: megabytes of the daemon's memory, and it uses neither.
 */
import type * as http from "node:http";

export const plainHttp: typeof http = process.getBuiltinModule("node:http");
