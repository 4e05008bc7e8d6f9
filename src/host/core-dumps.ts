import { run } from './run.ts';

/**
 * Has this process, and all it starts from now on, leave no core dump: hatchd's would hold its keys, a hypervisor's its guest's memory. With a
 * limit of 1 byte the kernel starts no program for one either, which it does with 0 (core(5)). Throws CommandFailed where
 * util-linux's prlimit is not installed.
 */
export async function leaveNoCoreDumps(pid = process.pid): Promise<void> {
  await run(['prlimit', `--pid=${pid}`, '--core=1:1']);
}
