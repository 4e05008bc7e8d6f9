import { createReadStream } from 'node:fs';
import { copyFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CreateVm, Vm } from '../../src/contract/vm.ts';
import { readIfThere } from '../../src/host/files.ts';
import { run } from '../../src/host/run.ts';
import type { Hatchd } from './hatchd.ts';

/**
 * What suites share that need a VM which is up, but not its booting: one that was booted and came to rest, as the file it was exported
 * to, and the SSH key it lets in. `booted.test.ts` makes them in the folder $HATCH_TEST_BOOTED names, before those suites begin.
 */
const FOLDER = process.env['HATCH_TEST_BOOTED'];
const SNAPSHOT = 'booted.hatch';
const KEY = 'id_ed25519';

/** Makes the key pair a test's guests let in, at `keyFile`: the one of the VM that was booted for all, where there is one. */
export async function makeKey(keyFile: string): Promise<void> {
  if (FOLDER !== undefined && (await readIfThere(join(FOLDER, KEY))) !== undefined) {
    for (const end of ['', '.pub']) await copyFile(join(FOLDER, `${KEY}${end}`), `${keyFile}${end}`);
  } else await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', keyFile]);
}

/** A VM that is up and has come to rest: the one that was booted for all as a copy, else one that is booted here. */
export async function bootedVm(
  { client, publicKey }: Hatchd,
  given: { readonly name: string } & Pick<CreateVm, 'idle'>,
): Promise<Vm> {
  const bytes = FOLDER === undefined ? 0 : await sizeOf(join(FOLDER, SNAPSHOT));
  if (FOLDER === undefined || bytes === 0) {
    const vm = await client.vms.create(
      { ...given, ssh_authorized_keys: [publicKey] },
      { wait: 'ready', timeout: 300 },
    );
    await comesToRest(client, vm.id);
    return vm;
  }
  const { id, vm_id } = await client.snapshots.import(createReadStream(join(FOLDER, SNAPSHOT)), { bytes });
  await client.vms.update(vm_id, given);
  const vm = await client.vms.start(vm_id, { wait: 'ready', timeout: 120 });
  await client.snapshots.delete(id);
  return vm;
}

/** Puts what the other suites need where they look for it: the snapshot as a file, and the key its guest lets in. */
export async function shareBooted(
  { client, keyFile }: Hatchd,
  snapshot: string,
  folder: string,
): Promise<void> {
  for (const end of ['', '.pub']) await copyFile(`${keyFile}${end}`, join(folder, `${KEY}${end}`));
  await writeFile(join(folder, SNAPSHOT), client.snapshots.export(snapshot));
}

/** Waits until the guest has done all it does at a boot. */
export async function comesToRest(client: Hatchd['client'], id: string): Promise<void> {
  await client.vms.exec(id, { command: 'systemctl is-system-running --wait || true', timeout_seconds: 300 });
}

async function sizeOf(path: string): Promise<number> {
  return stat(path).then(
    ({ size }) => size,
    () => 0,
  );
}
