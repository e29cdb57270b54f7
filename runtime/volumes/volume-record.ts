/** A volume as it is remembered. */
import type { Labels } from "../../model/specs.ts";

/** On volumes that nobody named: prune and `rm -v` may take them. */
export const ANONYMOUS_LABEL = "com.docker.volume.anonymous";

export interface VolumeRecord {
  readonly name: string;
  readonly driver: string;
  readonly options: Readonly<Record<string, string>>;
  readonly labels: Labels;
  /** RFC 3339. */
  readonly createdAt: string;
  /** Container that an anonymous one was made for. */
  readonly madeFor?: string;
}
