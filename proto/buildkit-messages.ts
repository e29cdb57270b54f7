/** The generated messages of BuildKit's protocol, with 64-bit fields as numbers. Loaded when the first client speaks it. */
import "./configure.ts";
import { buildkit } from "./gen/buildkit.js";

export const bk: typeof buildkit = buildkit;
export type { buildkit };
