/** What a seeded error is: changes of source texts that are made while the modules are loaded. */
import type { ProfileName } from "./profiles.ts";

export interface Patch {
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export interface Mutant {
  readonly number: number;
  readonly name: string;
  readonly kind: "safety" | "liveness";
  readonly profile: ProfileName;
  readonly patches: readonly Patch[];
}

export function mutant(
  number: number,
  name: string,
  kind: Mutant["kind"],
  options: {
    readonly profile?: ProfileName;
    readonly patches: readonly (readonly [string, string, string])[];
  },
): Mutant {
  const patches = options.patches.map(([file, find, replace]) => ({ file, find, replace }));
  return { number, name, kind, profile: options.profile ?? "swarm", patches };
}
