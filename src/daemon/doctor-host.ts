import { access, constants } from 'node:fs/promises';
import { join } from 'node:path';
import { readIfThere } from '../host/files.ts';
import { CommandFailed, type Run } from '../host/run.ts';
import { CONTROLLERS, findCgroups } from '../vmm/cgroups.ts';
import { fail, ok, warn, type Found } from './doctor-finding.ts';

/**
 * What of the host itself makes guests safe or slow, by its /proc and /sys; `root`: where those are. What is told as a warning
 * matters where guests belong to people who do not trust each other (Firecracker, docs/prod-host-setup.md).
 */

/** The host kernels Firecracker's own tests run on (docs/kernel-policy.md). */
const TESTED = ['5.10', '6.1', '6.18'];

/** The kernel's version. */
export async function kernel(root = '/'): Promise<readonly Found[]> {
  const release = (await readIfThere(join(root, 'proc/sys/kernel/osrelease')))?.trim() ?? '';
  const [, major = '', minor = ''] = /^(\d+)\.(\d+)/.exec(release) ?? [];
  if (major === '') return warn('the kernel does not say its version');
  if (Number(major) < 5 || (Number(major) === 5 && Number(minor) < 10))
    return warn(
      `Linux ${release} is older than the oldest that Firecracker is made for; install 5.10 or newer`,
    );
  const tested = TESTED.includes(`${major}.${minor}`);
  return ok(
    `Linux ${release}${tested ? '' : `; Firecracker's own tests run on ${TESTED.join(', ')}, others mostly do`}`,
  );
}

/** Whether guests get their limits. */
export async function cgroups(root = '/'): Promise<readonly Found[]> {
  const tree = await findCgroups(join(root, 'proc/mounts'));
  const missing = CONTROLLERS.filter((one) => tree?.controllers.includes(one) !== true);
  if (tree !== null && missing.length === 0) {
    try {
      await access(tree.mount, constants.W_OK);
      return ok(`version 2, with ${CONTROLLERS.join(', ')}`);
    } catch {
      return warn(
        `cgroup v2 cannot be written to (${tree.mount}), so the host bounds no guest's processor, memory, threads; run hatchd as root, and in a container with a hierarchy of its own that is not read-only`,
      );
    }
  }
  const lost = { cpu: 'processor', memory: 'memory', pids: 'threads' };
  const what = missing.map((one) => lost[one]).join(', ');
  const remedy = 'boot with systemd.unified_cgroup_hierarchy=1 (and cgroup_enable=memory where that is off)';
  return warn(
    tree === null
      ? `no cgroup v2 here, so the host bounds no guest's ${what}; ${remedy}`
      : `cgroup v2 lacks ${missing.join(', ')} here, so the host bounds no guest's ${what}; ${remedy}`,
  );
}

/**
 * Whether guests' memory stays in memory, and each in its own; and whether the host has as much as guests may take: `budgetMib`, undefined
 * where they have no limit.
 */
export async function memory(budgetMib: number | undefined, root = '/'): Promise<readonly Found[]> {
  const swaps = ((await readIfThere(join(root, 'proc/swaps'))) ?? '')
    .split('\n')
    .slice(1)
    .map((line) => line.split(/\s/)[0] ?? '')
    .filter((name) => name !== '');
  const tooMuch = budgetMib === undefined ? undefined : overTheHosts(budgetMib, await hostMemoryMib(root));
  const ksm = (await readIfThere(join(root, 'sys/kernel/mm/ksm/run')))?.trim();
  return [
    ...(swaps.length === 0
      ? ok('no swap')
      : warn(
          `swap is on (${swaps.join(', ')}): guests' memory, with their secrets, is written to it and comes back slowly; ` +
            '`swapoff -a`, and take it out of /etc/fstab',
        )),
    ...(ksm === '1'
      ? warn(
          'KSM shares equal pages between guests, so one can find out what another holds; ' +
            '`echo 2 > /sys/kernel/mm/ksm/run` ends that',
        )
      : ok('KSM is off')),
    ...(budgetMib === undefined
      ? []
      : tooMuch === undefined
        ? ok(`guests may take ${budgetMib} MiB, and the host has more`)
        : warn(tooMuch)),
  ];
}

/** What the host has of memory in all, in MiB (proc(5), /proc/meminfo); undefined where it does not say. */
export async function hostMemoryMib(root = '/'): Promise<number | undefined> {
  const kib = /^MemTotal:\s+(\d+) kB$/m.exec((await readIfThere(join(root, 'proc/meminfo'))) ?? '')?.[1];
  return kib === undefined ? undefined : Math.floor(Number(kib) / 1024);
}

/** What is wrong with a budget for guests that the host's memory is too small for; undefined: nothing, or it is not known. */
export function overTheHosts(budgetMib: number, hostMib: number | undefined): string | undefined {
  if (hostMib === undefined || budgetMib < hostMib) return undefined;
  return (
    `HATCH_MEMORY_BUDGET_MIB is ${budgetMib} MiB and the host has ${hostMib} MiB in all: ` +
    'memory runs out before any VM is put to sleep for it; set it lower, with room for hatchd and the host itself'
  );
}

/** Whether two guests may run on the halves of one core. */
export async function processor(root = '/'): Promise<readonly Found[]> {
  const active = (await readIfThere(join(root, 'sys/devices/system/cpu/smt/active')))?.trim();
  if (active === undefined) return ok('nothing says that cores have threads (SMT)');
  return active === '1'
    ? warn(
        'SMT is on, so two guests may share a core and learn from its timing; where they do not trust each other, ' +
          '`echo off > /sys/devices/system/cpu/smt/control`, or boot with nosmt',
      )
    : ok('SMT is off, or there is none');
}

/** Whether nftables works: the program, the kernel's part and the right to it. */
export async function nftables({ run }: { readonly run: Run }): Promise<readonly Found[]> {
  try {
    await run(['nft', 'list', 'tables'], { timeoutMs: 10_000 });
    return ok('works');
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    if (error.missing) return fail('nft is not installed; `apt-get install nftables` brings it');
    return fail(
      `nft does not work here (${error.stderrTail.split('\n')[0] ?? error.message}); run as root on a kernel with nf_tables: \`modprobe nf_tables\``,
    );
  }
}

/** How many of the guests' SSH ports nobody listens on. */
export async function sshPorts(
  { address, min, max }: { readonly address: string; readonly min: number; readonly max: number },
  root = '/',
): Promise<readonly Found[]> {
  const taken = new Set<number>();
  for (const { ip, port } of await listeners(root)) {
    if (port >= min && port <= max && (ip === ANY || address === '0.0.0.0' || ip === address))
      taken.add(port);
  }
  const many = max - min + 1;
  const free = many - taken.size;
  const range = `of the SSH ports ${min} to ${max}`;
  if (free === 0)
    return fail(
      `none ${range} is free; stop what listens there, or change HATCH_SSH_PORT_MIN and HATCH_SSH_PORT_MAX`,
    );
  if (taken.size === 0) return ok(`all ${range} are free`);
  return ok(`${free} ${range} are free; those in use are passed over`);
}

const ANY = '0.0.0.0';
/** TCP_LISTEN, as /proc/net/tcp has it. */
const LISTEN = '0A';

/** Who listens on IPv4, or on all of IPv6 and so mostly on IPv4 too (proc(5), /proc/net/tcp). */
async function listeners(root: string): Promise<readonly { readonly ip: string; readonly port: number }[]> {
  const found: { ip: string; port: number }[] = [];
  for (const table of ['tcp', 'tcp6']) {
    const text = (await readIfThere(join(root, 'proc/net', table))) ?? '';
    for (const line of text.split('\n').slice(1)) {
      const [, local = '', , state] = line.trim().split(/\s+/);
      const [address = '', port = ''] = local.split(':');
      if (state !== LISTEN) continue;
      if (/^0+$/.test(address)) found.push({ ip: ANY, port: parseInt(port, 16) });
      else if (table === 'tcp') found.push({ ip: dotted(address), port: parseInt(port, 16) });
    }
  }
  return found;
}

/** Four bytes in hex, the last first. */
function dotted(hex: string): string {
  return [6, 4, 2, 0].map((at) => parseInt(hex.slice(at, at + 2), 16)).join('.');
}
