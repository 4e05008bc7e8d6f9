import { join } from 'node:path';
import { run, type Argv } from '../../src/host/run.ts';

/** Where a guest's sshd is reached, and as whom. */
export interface SshTarget {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly keyFile: string;
}

/** An SSH connection to a guest that is open: what goes over it need not agree on keys first. */
export interface SshLine {
  /** Copies a file of ours into the guest. */
  upload(from: string, to: string): Promise<unknown>;
  /** Copies a file of the guest to us. */
  download(from: string, to: string): Promise<unknown>;
  close(): Promise<unknown>;
}

const TIMEOUT_MS = 120_000;
const OPTIONS = [
  'BatchMode=yes',
  'ConnectTimeout=20',
  'StrictHostKeyChecking=no',
  'UserKnownHostsFile=/dev/null',
  'LogLevel=ERROR',
];

/** A connection that does nothing, from its start to its end. */
export function knock({ host, port, user, keyFile }: SshTarget): Promise<unknown> {
  const options = ['-i', keyFile, '-p', String(port), ...flags(OPTIONS)];
  return run(['ssh', ...options, `${user}@${host}`, 'true'], { timeoutMs: TIMEOUT_MS });
}

/** Opens a connection that stays; its socket lies in `folder`. */
export async function openLine(
  { host, port, user, keyFile }: SshTarget,
  folder: string,
  name: string,
): Promise<SshLine> {
  const path = join(folder, `${name}.sock`);
  const options = ['-i', keyFile, ...flags([...OPTIONS, `ControlPath=${path}`])];
  const who = `${user}@${host}`;
  const call = (argv: Argv): Promise<unknown> => run(argv, { timeoutMs: TIMEOUT_MS });
  await call(['ssh', ...options, '-p', String(port), '-f', '-M', '-N', who]);
  const scp = (from: string, to: string): Promise<unknown> =>
    call(['scp', '-q', ...options, '-P', String(port), from, to]);
  return {
    upload: (from, to) => scp(from, `${who}:${to}`),
    download: (from, to) => scp(`${who}:${from}`, to),
    close: () => call(['ssh', ...options, '-p', String(port), '-O', 'exit', who]),
  };
}

function flags(options: readonly string[]): readonly string[] {
  return options.flatMap((option) => ['-o', option]);
}
