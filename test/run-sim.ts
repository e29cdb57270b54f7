/** The simulator's share of `npm test`, and the tests of its own parts. */
import { importTests } from "./import-tests.ts";

await importTests("test/sim");
