import { driverSuite } from '../../src/vmm/driver-suite.ts';
import { JAILER_DOUBLE } from '../../src/vmm/firecracker/testing/wrapper.ts';
import { firecrackerHost } from '../support/firecracker-host.ts';

driverSuite("Firecracker's double, jailed by its jailer's", () =>
  firecrackerHost({ jail: { mode: 'on', jailerBin: JAILER_DOUBLE, uids: { min: 61000, max: 64999 } } }),
);
