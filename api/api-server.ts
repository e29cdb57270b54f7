/**
 * The entry of this folder: the daemon calls createApiServer once, adds its listeners, and stops it at the end. Builds the
 * event feed and the routes around what it is given; keeps nothing else.
 */
import type { Env } from "../common/env.ts";
import type { Logger } from "../common/log.ts";
import { MetricsRegistry } from "../common/metrics.ts";
import type { SwarmLifecycle } from "../model/cluster-control.ts";
import type { NetworkAssignment } from "../model/dispatch.ts";
import type { Engine } from "../model/engine.ts";
import type { ApiContext, VersionInfo } from "./context.ts";
import { EventFeed } from "./event-feed.ts";
import { BUILDKIT_ROUTES } from "./routes/buildkit.ts";
import { CONTAINER_ROUTES } from "./routes/containers.ts";
import { DASHBOARD_ROUTES } from "./routes/dashboard.ts";
import { IMAGE_ROUTES } from "./routes/images.ts";
import { NETWORK_ROUTES } from "./routes/networks.ts";
import { SECRET_ROUTES } from "./routes/secrets.ts";
import { SERVICE_ROUTES } from "./routes/services.ts";
import { BACKUP_ROUTES } from "./routes/backup.ts";
import { CLUSTER_IMAGE_ROUTES } from "./routes/cluster-images.ts";
import { SHOAL_ROUTES } from "./routes/shoal.ts";
import { STREAM_ROUTES } from "./routes/streams.ts";
import { SWARM_ROUTES } from "./routes/swarm.ts";
import { SYSTEM_ROUTES } from "./routes/system.ts";
import { PLUGIN_ROUTES } from "./routes/plugins.ts";
import { VOLUME_ROUTES } from "./routes/volumes.ts";
import { HttpApi, type ListenAddress } from "./server.ts";

export interface ApiServerOptions {
  readonly engine: Engine;
  readonly swarm: SwarmLifecycle;
  readonly env: Pick<Env, "clock" | "timers" | "random">;
  readonly log: Logger;
  readonly version: VersionInfo;
  /** Absent: an own registry, which only has the API's metrics. */
  readonly metrics?: MetricsRegistry;
  /** Absent: none. */
  readonly networksHere?: () => readonly NetworkAssignment[];
}

export interface ApiServer {
  /** May be called for several addresses. Returns the TCP port, 0 for UNIX sockets. */
  listen(address: ListenAddress): Promise<number>;
  stop(): Promise<void>;
}

export function createApiServer(options: ApiServerOptions): ApiServer {
  const events = new EventFeed(options);
  const context: ApiContext = {
    ...options,
    metrics: options.metrics ?? new MetricsRegistry(),
    networksHere: options.networksHere ?? (() => []),
    events,
  };
  const http = new HttpApi(context, [
    ...SYSTEM_ROUTES,
    ...CONTAINER_ROUTES,
    ...STREAM_ROUTES,
    ...IMAGE_ROUTES,
    ...BUILDKIT_ROUTES,
    ...NETWORK_ROUTES,
    ...VOLUME_ROUTES,
    ...PLUGIN_ROUTES,
    ...SWARM_ROUTES,
    ...SERVICE_ROUTES,
    ...SECRET_ROUTES,
    ...SHOAL_ROUTES,
    ...BACKUP_ROUTES,
    ...CLUSTER_IMAGE_ROUTES,
    ...DASHBOARD_ROUTES,
  ]);
  events.start();
  return {
    listen: (address) => http.listen(address),
    stop: async () => {
      events.stop();
      await http.stop();
    },
  };
}
