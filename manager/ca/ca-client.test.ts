/** What an operator reads when no manager can be reached. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError } from "../../common/errors.ts";
import { whyNot } from "./ca-client.ts";

test("whyNot() says that the address is a worker's, and keeps the system's word without the library's frame", () => {
  const at = "10.0.0.4:2377";
  const asked = new ClusterError(
    "unimplemented",
    "The server does not implement the method /shoal.v1.Ca/Join",
  );
  assert.equal(whyNot(at, asked), `the node at ${at} is a worker; give the address of a manager`);
  const refused =
    "No connection established. Last error: Error: connect ECONNREFUSED 10.0.0.4:2377. Resolution note: ";
  assert.equal(whyNot(at, new ClusterError("unavailable", refused)), "connect ECONNREFUSED 10.0.0.4:2377");
  const early =
    "No connection established. Last error: Error: certificate is not yet valid. Resolution note: ";
  assert.equal(
    whyNot(at, new ClusterError("unavailable", early)),
    "certificate is not yet valid: is the clock of this machine right?",
  );
  assert.equal(whyNot(at, new ClusterError("deadline_exceeded", "No answer in 3 s")), "No answer in 3 s");
});
