import { after } from 'node:test';
import { AGENT_SEED, agentCases } from '../support/agent-cases.ts';
import { bootedOrBoot } from '../support/booted-guest.ts';
import { qemuFolder } from '../support/qemu-folder.ts';

const { folder, open, remove } = await qemuFolder();
const booted = await bootedOrBoot(await open(), folder, AGENT_SEED);
after(async () => {
  await booted.remove();
  await remove();
});

agentCases(booted);
