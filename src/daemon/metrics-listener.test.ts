import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { randomInt } from 'node:crypto';
import type { Server } from 'node:http';
import { test } from 'node:test';
import { silent, type Logger } from '../base/logger.ts';
import { listenForMetrics } from './metrics-listener.ts';
import { Shutdown } from './shutdown.ts';

test('a connection that could not be taken is warned of, and the next one is', async () => {
  const warnings: string[] = [];
  const log: Logger = { ...silent, warn: (_fields, message) => void warnings.push(message) };
  const shutdown = new Shutdown(silent);
  const place = { host: `127.${randomInt(1, 255)}.${randomInt(1, 255)}.1`, port: 9400 };
  let server: Server | undefined;
  const note = (begun: unknown): void => void ({ server } = begun as { readonly server: Server });
  subscribe('http.server.request.start', note);
  try {
    await listenForMetrics(
      { HATCH_METRICS_ADDR: place },
      { meter: { text: async () => 'all' }, log },
      shutdown,
    );
    const ask = async (): Promise<string> =>
      (await fetch(`http://${place.host}:${place.port}/metrics`)).text();
    assert.equal(await ask(), 'all');
    for (let i = 0; i < 2; i++) server?.emit('error', new Error('accept EMFILE'));
    assert.equal(await ask(), 'all');
    assert.equal(warnings.length, 2);
  } finally {
    unsubscribe('http.server.request.start', note);
    await shutdown.run('the test is over');
  }
});
