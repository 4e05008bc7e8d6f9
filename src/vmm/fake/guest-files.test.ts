import assert from 'node:assert/strict';
import { after } from 'node:test';
import { guestFileSuite } from '../../guest/guest-file-suite.ts';
import { makeHostFolder, openFakeWorld } from '../../../test/support/fake-world.ts';
import { readGuest } from './state.ts';

const host = await makeHostFolder();
const fake = await openFakeWorld(host);
const { hatch, caller, world } = fake;
after(async () => {
  await fake.close();
  await host.remove();
});

guestFileSuite('a pretended guest', {
  guest: async () => {
    const { id } = await hatch.vms.create(caller, {}, { until: 'ready', timeoutMs: 10_000 });
    const live = world.fleet.get(id);
    assert.ok(live);
    const list = async (): Promise<readonly string[]> =>
      Object.keys((await readGuest(`${host.vms}/${id}`))?.memory ?? {})
        .filter((path) => path.startsWith('/srv/'))
        .map((path) => path.slice('/srv/'.length));
    return { agent: live.agent, folder: '/srv', list };
  },
  mostMs: 20_000,
});
