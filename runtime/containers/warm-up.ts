/**
 * What a container's creation and start decide in memory, run once for one that is never made: the functions are compiled and the usual
 * system call filter is there before the first client waits for them. Touches no file system but to look, and no process.
 */
import type { Logger } from "../../common/log.ts";
import { ZERO_TIME } from "../../common/time.ts";
import type { CreateContainerRequest } from "../../model/engine.ts";
import type { ImageConfig } from "../ports.ts";
import { checkedConfig } from "./container-create.ts";
import { INITIAL_STATE } from "./container-record.ts";
import { encodeCreateJob } from "./native-job.ts";
import { launchSpec, type SpecInput } from "./spec.ts";

const ID = "0".repeat(64);
const REQUEST: CreateContainerRequest = { config: { Image: ID, Cmd: ["true"] }, hostConfig: {} };
/** Of no platform, so that it fits any machine. */
const IMAGE: ImageConfig = {
  imageId: ID,
  architecture: "",
  os: "",
  created: ZERO_TIME,
  config: {},
  diffIds: [],
};

type Host = Pick<SpecInput, "execRoot" | "nativeBinary" | "cgroups" | "idMaps" | "appArmor">;

/** Never throws: what doesn't work here is said to the client whose container it is. */
export function warmUp(host: Host & { readonly log: Logger }): void {
  try {
    unmadeJob(host);
  } catch (caught) {
    host.log.debug("not warmed up", { error: caught });
  }
}

/** What would go to the native side. */
export function unmadeJob(host: Host): Uint8Array {
  const folder = `${host.execRoot}/c/${ID}`;
  return encodeCreateJob(
    launchSpec({
      ...host,
      record: {
        id: ID,
        name: ID,
        created: ZERO_TIME,
        image: ID,
        imageId: ID,
        config: checkedConfig(REQUEST, IMAGE),
        hostConfig: REQUEST.hostConfig,
        networkingConfig: null,
        mounts: [],
        state: INITIAL_STATE,
        restartCount: 0,
        isStoppedByUser: false,
        network: null,
        isNetworkOfTask: false,
      },
      layers: { lower: [folder], upper: folder, work: folder },
      folder,
      networkFolder: folder,
      files: [],
      environment: [],
      pidOf: () => 0,
      shmOf: () => folder,
    }),
  );
}
