/**
 * What the volume engine asks of a driver. The local one and the plugin protocol implement it. A driver keeps no names
 * and labels: those are the engine's.
 */
export interface DriverVolume {
  readonly name: string;
  /** "" where it is known only while mounted. */
  readonly mountpoint: string;
  /** RFC 3339, or "" if the driver doesn't say. */
  readonly createdAt: string;
  /** Shown by inspect as it is. */
  readonly status: Readonly<Record<string, unknown>>;
}

export interface VolumeDriver {
  readonly name: string;
  /** "local" or "global": whether other machines see the same volume. */
  scope(): Promise<string>;
  create(name: string, options: Readonly<Record<string, string>>): Promise<void>;
  remove(name: string): Promise<void>;
  /** Resolves to the folder on the host. Called for each user; counting is the driver's where it matters. */
  mount(name: string, userId: string): Promise<string>;
  unmount(name: string, userId: string): Promise<void>;
  get(name: string): Promise<DriverVolume | undefined>;
  list(): Promise<readonly DriverVolume[]>;
}
