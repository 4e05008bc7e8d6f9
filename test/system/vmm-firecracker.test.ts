import { driverSuite } from '../../src/vmm/driver-suite.ts';
import { firecrackerHost } from '../support/firecracker-host.ts';

driverSuite("Firecracker's double", () => firecrackerHost());
