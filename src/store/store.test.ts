import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { silent } from '../base/logger.ts';
import { openStore } from './db/open.ts';
import { storeSuite } from './store-suite.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-store-'));
});
after(() => rm(folder, { recursive: true, force: true }));

storeSuite('a store in a SQLite file', (clock) =>
  openStore(`sqlite:${join(folder, 'hatch.db')}`, { clock, log: silent }),
);
