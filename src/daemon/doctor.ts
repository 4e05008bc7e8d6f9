import { access, constants } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../base/clock.ts';
import { silent } from '../base/logger.ts';
import { hostPackages } from '../guest/image/debian-packages.ts';
import { findBuiltImage } from '../guest/image/build-image.ts';
import { exists, freeBytes, reflink, remove, writeFileAtomic } from '../host/files.ts';
import { isAlive } from '../host/process.ts';
import { BASE_ENV, run } from '../host/run.ts';
import { openStore } from '../store/db/open.ts';
import type { Values } from './config.ts';
import { claimant, dataFolder, type DataFolder } from './data-folder.ts';
import { chooseDriver } from './driver.ts';

type Verdict = 'ok' | 'warn' | 'fail';
interface Finding {
  readonly check: string;
  readonly verdict: Verdict;
  /** What was seen, and what to do about it. */
  readonly message: string;
}

const MIN_FREE_BYTES = 2 * 1024 ** 3;

/**
 * Looks at what this machine needs to run guests and says, in a sentence each, what is missing and what to do. Changes
 * nothing. Exit code 0: guests can run; 1: something fails.
 */
export async function doctorCommand(values: Values, json: boolean): Promise<number> {
  const findings: Finding[] = [];
  const data = dataFolder(values.HATCH_DATA_DIR);
  for (const check of [rights, programs, hypervisor, disk, database, image, daemon]) {
    try {
      findings.push(...(await check(values, data)));
    } catch (error) {
      findings.push({
        check: check.name,
        verdict: 'fail',
        message: error instanceof Error ? error.message : String(error),
      });
    }
  }
  const failed = findings.some((one) => one.verdict === 'fail');
  if (json) process.stdout.write(`${JSON.stringify({ ok: !failed, findings }, null, 2)}\n`);
  else {
    for (const { check, verdict, message } of findings)
      process.stdout.write(
        `${{ ok: ' ok ', warn: 'warn', fail: 'FAIL' }[verdict]}  ${check.padEnd(11)} ${message}\n`,
      );
    process.stdout.write(
      failed ? '\nGuests cannot run here yet: see FAIL above.\n' : '\nGuests can run here.\n',
    );
  }
  return failed ? 1 : 0;
}

async function rights(values: Values): Promise<Finding[]> {
  const check = 'rights';
  if (values.HATCH_VMM === 'fake')
    return [{ check, verdict: 'ok', message: 'guests are pretended: no rights are needed' }];
  if (process.geteuid?.() !== 0)
    return [{ check, verdict: 'fail', message: 'bridges and taps need root: run hatchd as root' }];
  try {
    await access('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch {
    return [
      { check, verdict: 'fail', message: '/dev/net/tun is not there: load the module with `modprobe tun`' },
    ];
  }
  return [{ check, verdict: 'ok', message: 'root, and /dev/net/tun can be opened' }];
}

async function programs(values: Values): Promise<Finding[]> {
  if (values.HATCH_VMM === 'fake') return [];
  const folders = (BASE_ENV['PATH'] ?? '').split(':');
  const missing: string[] = [];
  for (const { name, binary, why } of hostPackages) {
    const found = await Promise.all(folders.map((folder) => exists(join(folder, binary))));
    if (!found.includes(true)) missing.push(`${binary} (package ${name}: ${why})`);
  }
  return missing.length > 0
    ? [
        {
          check: 'programs',
          verdict: 'fail',
          message: `missing: ${missing.join(', ')}; install them with \`apt-get install\``,
        },
      ]
    : [{ check: 'programs', verdict: 'ok', message: 'all are there' }];
}

async function hypervisor(values: Values, data: DataFolder): Promise<Finding[]> {
  const driver = await chooseDriver(values, { run, log: silent, data });
  const named = `${driver.name} ${driver.version}, ${driver.accel}`;
  if (driver.accel !== 'tcg') return [{ check: 'hypervisor', verdict: 'ok', message: named }];
  return [
    {
      check: 'hypervisor',
      verdict: 'warn',
      message: `${named}: KVM does not run code here, so guests are emulated and 10 to 30 times slower; use a machine with KVM, or enable nested virtualisation`,
    },
  ];
}

async function disk(_values: Values, data: DataFolder): Promise<Finding[]> {
  const check = 'disk';
  if (!(await exists(data.root)))
    return [{ check, verdict: 'ok', message: `${data.root} is made at the first start` }];
  const free = await freeBytes(data.root);
  const findings: Finding[] = [
    free < MIN_FREE_BYTES
      ? {
          check,
          verdict: 'fail',
          message: `only ${(free / 1024 ** 3).toFixed(1)} GiB are free at ${data.root}; make room or move HATCH_DATA_DIR`,
        }
      : { check, verdict: 'ok', message: `${(free / 1024 ** 3).toFixed(1)} GiB are free at ${data.root}` },
  ];
  const [one, other] = [join(data.root, '.reflink-a'), join(data.root, '.reflink-b')];
  try {
    await writeFileAtomic(one, 'x'.repeat(4096));
    const shares = await reflink(one, other);
    findings.push({
      check,
      verdict: 'ok',
      message: shares
        ? 'the file system shares blocks (reflink)'
        : 'no reflink here: guests get qcow2 overlays; XFS or btrfs would share blocks',
    });
  } finally {
    await remove(one);
    await remove(other);
  }
  return findings;
}

async function database(values: Values, data: DataFolder): Promise<Finding[]> {
  const check = 'database';
  if (values.DATABASE_URL === undefined && !(await exists(data.database)))
    return [{ check, verdict: 'ok', message: 'SQLite, made at the first start' }];
  const store = await openStore(values.DATABASE_URL ?? `sqlite:${data.database}`, {
    clock: systemClock,
    log: silent,
  });
  try {
    await store.ping();
    return [{ check, verdict: 'ok', message: 'it answers' }];
  } finally {
    await store.close();
  }
}

async function image(values: Values, data: DataFolder): Promise<Finding[]> {
  const check = 'image';
  if (values.HATCH_VMM === 'fake') return [{ check, verdict: 'ok', message: 'pretended' }];
  if (values.HATCH_DEFAULT_ROOTFS_PATH !== undefined && values.HATCH_DEFAULT_KERNEL_PATH !== undefined) {
    const missing = [values.HATCH_DEFAULT_ROOTFS_PATH, values.HATCH_DEFAULT_KERNEL_PATH];
    const there = await Promise.all(missing.map((path) => exists(path)));
    const gone = missing.filter((_, i) => there[i] !== true);
    return gone.length > 0
      ? [{ check, verdict: 'fail', message: `${gone.join(' and ')} not there` }]
      : [{ check, verdict: 'ok', message: 'as configured' }];
  }
  const built = await findBuiltImage(data.images);
  return built
    ? [{ check, verdict: 'ok', message: `${built.hash}, built ${built.manifest.built_at}` }]
    : [{ check, verdict: 'warn', message: 'no default image yet: run `hatchd image build`' }];
}

async function daemon(_values: Values, data: DataFolder): Promise<Finding[]> {
  const holder = await claimant(data);
  return holder && (await isAlive(holder))
    ? [{ check: 'hatchd', verdict: 'ok', message: `runs with pid ${holder.pid}` }]
    : [{ check: 'hatchd', verdict: 'ok', message: 'does not run' }];
}
