import { createServer } from 'node:net';
import { openLogger } from '../../src/daemon/logger.ts';
import { startDaemon } from '../../src/daemon/assemble.ts';
import { readConfig } from '../../src/daemon/config.ts';
import { errorFields } from '../../src/base/logger.ts';
import { parseId } from '../../src/base/ids.ts';
import { Tender } from '../../src/ops/archive/tend.ts';
import { sleepVm } from '../../src/ops/snapshot-vm.ts';

/**
 * `soak-hatchd.ts SOCKET`: hatchd as it is, and a socket beside on which a line asks for what no call of the API reaches, and is
 * answered by "ok" or what went wrong: `sleep VM` puts it to sleep as one that nobody uses, `settle` looks after the store as if a
 * day had gone by and collects what is no longer used of the memory (with `--expose-gc`).
 */
const [socket] = process.argv.slice(2);
if (socket === undefined) throw new Error('soak-hatchd.ts needs the path of its socket');

const log = openLogger('info', false);
const { world, shutdown } = await startDaemon(readConfig(process.env).values, { log, version: 'soak' });
const tender = new Tender(world, { graceMs: 0, rewriteAgeMs: 0, sweepMs: 0 });

const server = createServer({ allowHalfOpen: true }, (client) => {
  let asked = '';
  client.setEncoding('utf8');
  client.on('error', () => undefined);
  client.on('data', (text: string) => (asked += text));
  client.on('end', () => {
    perform(asked.trim()).then(
      () => client.end('ok'),
      (error: unknown) => {
        log.error(errorFields(error), 'could not do what was asked');
        client.end(error instanceof Error ? error.message : String(error));
      },
    );
  });
});
server.listen(socket);

async function perform(line: string): Promise<void> {
  const [verb, of = ''] = line.split(' ');
  if (verb === 'settle') {
    await tender.round(new AbortController().signal);
    globalThis.gc?.();
    return;
  }
  const id = parseId('vm', of);
  if (verb !== 'sleep' || id === undefined) throw new Error(`"${line}" is not understood`);
  await sleepVm(world, { id });
}

process.once('SIGTERM', () => {
  server.close();
  void shutdown.run('SIGTERM').then(() => process.exit(0));
});
