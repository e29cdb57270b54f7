import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../common/errors.ts";
import { checkAddresses, checkPools } from "./swarm-addresses.ts";

function refused(run: () => void, text: RegExp): void {
  assert.throws(run, (error) => hasCode(error, "invalid_argument") && text.test(error.message));
}

test("checkAddresses() takes what is left out, names and addresses, and refuses zeros and ports out of range", () => {
  checkAddresses({});
  checkAddresses({ AdvertiseAddr: "eth0:2377", DataPathAddr: "10.0.0.1", DataPathPort: 0 });
  checkAddresses({ DataPathPort: 1024 });
  checkAddresses({ DataPathPort: 49_151 });
  for (const address of ["0.0.0.0", "0.0.0.0:2377", "::", "[::]:2377"]) {
    refused(
      () => checkAddresses({ AdvertiseAddr: address }),
      /^advertise address must be a non-zero IP address/,
    );
    refused(
      () => checkAddresses({ DataPathAddr: address }),
      /^data path address must be a non-zero IP address/,
    );
  }
  for (const DataPathPort of [80, 1023, 49_152, -1, 5000.5])
    refused(
      () => checkAddresses({ DataPathPort }),
      /Datapath port number is not in valid range \(1024-49151\) : /,
    );
});

test("checkPools() takes pools that hold subnets of the size, and refuses the rest by name", () => {
  checkPools({}, 24);
  checkPools({ DefaultAddrPool: ["10.77.0.0/16", "10.78.0.0/24"] }, 24);
  refused(
    () => checkPools({ DefaultAddrPool: ["10.1.0.0/16"] }, 8),
    /"10\.1\.0\.0\/16"\. Subnet size is too small for pool: 8/,
  );
  for (const bits of [0, 30, 33, -1]) refused(() => checkPools({}, bits), /subnet size is out of range: /);
  for (const pool of ["10.0.0.0", "10.0.0/8", "10.0.0.0/33", "fd00::/8", "", "10.0.0.0/8/8"])
    refused(() => checkPools({ DefaultAddrPool: [pool] }, 29), /invalid CIDR: /);
});
