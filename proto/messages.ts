/** The generated messages, with 64-bit fields as numbers. The only file that imports gen/. */
import "./configure.ts";
import { shoal } from "./gen/shoal.js";

export const v1: typeof shoal.v1 = shoal.v1;
export type { shoal };
