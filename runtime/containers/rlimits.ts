/** Resource limits of a process (`--ulimit`) by name, with the kernel's numbers. Pure. */
import { ClusterError } from "../../common/errors.ts";
import type { Ulimit } from "../../model/specs.ts";

const RESOURCES: Readonly<Record<string, number>> = {
  cpu: 0,
  fsize: 1,
  data: 2,
  stack: 3,
  core: 4,
  rss: 5,
  nproc: 6,
  nofile: 7,
  memlock: 8,
  as: 9,
  locks: 10,
  sigpending: 11,
  msgqueue: 12,
  nice: 13,
  rtprio: 14,
  rttime: 15,
};
/** "NOFILE" for 7. */
export function rlimitName(resource: number): string {
  const [name = ""] = Object.entries(RESOURCES).find(([, number]) => number === resource) ?? [];
  return name.toUpperCase();
}

const UNLIMITED = 0xffff_ffff_ffff_ffffn;

export interface ResourceLimit {
  readonly resource: number;
  readonly soft: bigint;
  readonly hard: bigint;
}

export function resourceLimit(ulimit: Ulimit): ResourceLimit {
  const resource = RESOURCES[ulimit.Name.toLowerCase().replace(/^rlimit_/, "")];
  if (resource === undefined) {
    throw new ClusterError("invalid_argument", `invalid ulimit type: ${ulimit.Name}`);
  }
  const { Soft, Hard } = ulimit;
  if (Hard !== -1 && (Soft === -1 || Soft > Hard)) {
    throw new ClusterError(
      "invalid_argument",
      `ulimit soft limit must be less than or equal to hard limit: ${Soft} > ${Hard}`,
    );
  }
  const value = (number: number): bigint => (number < 0 ? UNLIMITED : BigInt(Math.trunc(number)));
  return { resource, soft: value(Soft), hard: value(Hard) };
}
