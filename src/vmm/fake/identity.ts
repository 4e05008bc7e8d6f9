import { createHash, randomBytes } from 'node:crypto';

/** Files of a pretended guest that say who it is; what the guest room does to a real one shows in them. */
const PATHS = {
  hostname: '/etc/hostname',
  machineId: '/etc/machine-id',
  hostKey: '/etc/ssh/ssh_host_ed25519_key.pub',
  mac: '/sys/class/net/eth0/address',
  card: '/sys/class/net/eth0/operstate',
  randomSeed: '/var/lib/systemd/random-seed',
} as const;

/** Its clock in whole seconds since 1970. */
export const CLOCK_PATH = '/sys/class/rtc/rtc0/since_epoch';

const HOOKS = '/etc/hatch/after-restore.d/';

/** Programs of the guest room (guest/identity.ts), by the name it runs them under. */
export const IDENTITY_PROGRAMS = ['hatch-identity', 'hatch-refresh', 'hatch-join'] as const;

export interface FakeFiles {
  readonly read: (path: string) => Promise<string | undefined>;
  readonly write: (path: string, text: string) => Promise<void>;
  /** All of its files, by their paths. */
  readonly all: () => Promise<Readonly<Record<string, string>>>;
  /** Writes and removes (null) files, all at once; none that the kernel makes. */
  readonly change: (files: Readonly<Record<string, string | null>>) => Promise<void>;
  /** The paths of its files that begin so. */
  readonly list: (prefix: string) => Promise<readonly string[]>;
}

/** What of itself a guest makes at its first boot. */
export function bornAs(mac: string | null): Readonly<Record<string, string>> {
  return {
    [PATHS.hostname]: 'pretended\n',
    [PATHS.machineId]: `${randomBytes(16).toString('hex')}\n`,
    [PATHS.hostKey]: `${bornKey(randomBytes(32))}\n`,
    ...(mac === null ? {} : { [PATHS.mac]: `${mac}\n`, [PATHS.card]: 'up\n' }),
  };
}

/**
 * Does to the pretended guest what a program of the guest room does to a real one, told the same on stdin, and says the same.
 * `runHook` gives the exit code of a hook, which is its text.
 */
export async function runIdentityProgram(
  files: FakeFiles,
  it: {
    readonly name: (typeof IDENTITY_PROGRAMS)[number];
    readonly stdin: string;
    readonly runHook: (text: string) => Promise<{ readonly exitCode: number; readonly out: string }>;
  },
): Promise<string> {
  if (it.name === 'hatch-join') {
    await files.write(PATHS.card, 'up\n');
    return '';
  }
  const [reason = '', seed = '', , now = '', hostname = '', mac = '', machineId = '', , hostKey = ''] =
    it.stdin.split('\n');
  const drawn = createHash('sha256').update(seed).digest();
  await files.write(PATHS.randomSeed, drawn.toString('hex'));
  const said = ['reseeded yes'];
  if (it.name === 'hatch-identity') {
    await files.write(CLOCK_PATH, `${Math.floor(Number(now) / 100)}\n`);
    await files.write(PATHS.hostname, `${hostname}\n`);
    await files.write(PATHS.machineId, `${machineId}\n`);
    await files.write(PATHS.hostKey, `${hostKey}\n`);
    if (mac !== '') await files.write(PATHS.mac, `${mac}\n`);
    if (mac !== '') await files.write(PATHS.card, 'down\n');
    said.push(`key ${hostKey}`);
  }
  for (const path of (await files.list(HOOKS)).toSorted()) {
    const text = ((await files.read(path)) ?? '').replaceAll('$HATCH_REASON', reason);
    const { exitCode, out } = await it.runHook(text);
    said.push(`hook ${exitCode} ${path.slice(HOOKS.length)}`);
    if (exitCode !== 0 && out !== '')
      said.push(
        ...out
          .trimEnd()
          .split('\n')
          .map((line) => `said ${line}`),
      );
  }
  return `${said.join('\n')}\ndone\n`;
}

/** The public half of an Ed25519 key, in the form of OpenSSH (RFC 8709). */
function bornKey(bytes: Buffer): string {
  const field = (value: Buffer): Buffer => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(value.length);
    return Buffer.concat([length, value]);
  };
  const blob = Buffer.concat([field(Buffer.from('ssh-ed25519')), field(bytes)]);
  return `ssh-ed25519 ${blob.toString('base64')} root@pretended`;
}
