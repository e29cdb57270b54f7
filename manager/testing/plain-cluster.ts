/** For tests: what a cluster is made with that nobody had wishes about. */
import type { CreateClusterOptions } from "../ca/new-cluster.ts";

export const PLAIN_CLUSTER: Omit<CreateClusterOptions, "env"> = {
  spec: undefined,
  availability: "active",
  defaultAddressPool: [],
  subnetSize: 0,
  dataPathPort: 0,
  autoLockManagers: false,
};
