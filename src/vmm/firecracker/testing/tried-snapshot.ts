import { Talk } from './tried-talk.ts';
import type { Tried, TriedVmm, TriedVmms } from './tried-vmm.ts';

export const FAILED = 'Load snapshot error: Failed to restore from snapshot: ';

/** A machine that keeps a word in /run/word, paused and saved as `state` and `memory`. */
export async function saved(
  vmms: TriedVmms,
  env: Readonly<Record<string, string>> = {},
  ...more: Parameters<TriedVmm['boot']>[1][]
): Promise<TriedVmm> {
  const vm = vmms.open(env);
  await vm.boot('console=ttyS0', ...more);
  using talk = new Talk(vm.uds);
  await talk.dial();
  await talk.shell('echo kept > /run/word');
  await vm.patch('/vm', { state: 'Paused' });
  const { fault } = await create(vm, vmms);
  if (fault !== null) throw new Error(fault);
  return vm;
}

export function create(vm: TriedVmm, vmms: TriedVmms, more: object = {}): Promise<Tried> {
  return vm.put('/snapshot/create', {
    snapshot_path: vmms.path('state'),
    mem_file_path: vmms.path('memory'),
    ...more,
  });
}

export function load(vm: TriedVmm, vmms: TriedVmms, more: object = {}): Promise<Tried> {
  return vm.put('/snapshot/load', {
    snapshot_path: vmms.path('state'),
    mem_backend: { backend_type: 'File', backend_path: vmms.path('memory') },
    ...more,
  });
}

export async function word(uds: string): Promise<string> {
  using talk = new Talk(uds);
  await talk.dial();
  return await talk.shell('cat /run/word');
}

export async function turns(): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
}
