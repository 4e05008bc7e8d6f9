import { exists } from '../../src/host/files.ts';
import { run } from '../../src/host/run.ts';

/** What benchmarks measure with, by Debian package. */
const PROGRAMS = { 'nginx-light': '/usr/sbin/nginx', wrk: '/usr/bin/wrk' } as const;

/** Installs the tools that are missing (Debian, as root). */
export async function installTools(packages: readonly (keyof typeof PROGRAMS)[]): Promise<void> {
  const missing: string[] = [];
  for (const one of packages) if (!(await exists(PROGRAMS[one]))) missing.push(one);
  if (missing.length === 0) return;
  await run(['apt-get', 'update', '-q'], { timeoutMs: 300_000 });
  await run(['apt-get', 'install', '-y', '-q', '--no-install-recommends', ...missing], {
    timeoutMs: 300_000,
    env: { DEBIAN_FRONTEND: 'noninteractive' },
  });
}
