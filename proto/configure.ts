/**
 * Makes protobufjs decode 64-bit fields as numbers. Must run before any generated module is loaded, so every import of
 * gen/ goes through messages.ts, which imports this first. Values stay below 2^53 by design: a larger one would lose
 * precision silently.
 */
import protobuf from "protobufjs/minimal.js";

// The generated code asks util.Long; without it numbers are used on both sides.
Object.assign(protobuf.util, { Long: null });
protobuf.configure();
