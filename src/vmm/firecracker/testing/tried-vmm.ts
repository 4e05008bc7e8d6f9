import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Refused } from './calls.ts';
import { readKnobs } from './knobs.ts';
import { Log } from './log.ts';
import { Metrics } from './metrics.ts';
import type { HttpRequest } from './routes.ts';
import { Vmm } from './vmm.ts';

/** An answer as a test looks at it. */
export interface Tried {
  readonly status: number;
  /** `fault_message`, where it was refused. */
  readonly fault: string | null;
  readonly json: unknown;
  readonly deprecated: boolean;
}

/** A folder with a kernel, an initrd and disks, and machines in this very process. Their TAPs are names in a set. */
export class TriedVmms implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'fcd-'));
  /** TAPs that are held; one named here beforehand is busy. */
  readonly taps = new Set<string>();
  readonly ends: number[] = [];
  #sockets = 0;

  constructor() {
    writeFileSync(this.path('kernel'), '\x7fELF a kernel', 'latin1');
    writeFileSync(this.path('bzImage'), 'MZ no ELF');
    writeFileSync(this.path('initrd'), 'an initrd');
    for (const name of ['disk', 'other']) {
      writeFileSync(this.path(name), '');
      truncateSync(this.path(name), 8 * 2 ** 20);
    }
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** A path for a socket that nobody has used yet. */
  socket(): string {
    return this.path(`vsock-${this.#sockets++}`);
  }

  open(
    env: Readonly<Record<string, string>> = {},
    { pci = false, mmdsLimit = 51_200 }: { readonly pci?: boolean; readonly mmdsLimit?: number } = {},
  ): TriedVmm {
    const knobs = readKnobs(env);
    const log = new Log('tried', { made: true });
    log.configure({ level: 'off' });
    return new TriedVmm(
      new Vmm({
        id: 'tried',
        knobs,
        log,
        metrics: new Metrics({ made: true }),
        pci,
        mmdsLimit,
        openTap: (name) => this.#openTap(name),
        end: (code) => void this.ends.push(code),
      }),
      this,
    );
  }

  #openTap(name: string): { readonly close: () => void } {
    if (this.taps.has(name)) throw new Error(`Open tap device failed: ${name} is busy`);
    this.taps.add(name);
    return { close: () => void this.taps.delete(name) };
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true });
  }
}

export class TriedVmm {
  readonly vmm: Vmm;
  readonly #in: TriedVmms;
  /** Where its vsock device is bound, once it has one. */
  uds = '';

  constructor(vmm: Vmm, within: TriedVmms) {
    this.vmm = vmm;
    this.#in = within;
  }

  /** A call with a body as it stands, or as JSON. */
  async call(method: HttpRequest['method'], path: string, body?: unknown): Promise<Tried> {
    const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body);
    try {
      const { reply, deprecated } = await this.vmm.handle({ method, path, body: text });
      return typeof reply === 'string'
        ? { status: 200, fault: null, json: JSON.parse(reply), deprecated }
        : { status: 204, fault: null, json: null, deprecated };
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      return { status: error.status, fault: error.message, json: null, deprecated: false };
    }
  }

  get(path: string): Promise<Tried> {
    return this.call('GET', path);
  }

  put(path: string, body: unknown): Promise<Tried> {
    return this.call('PUT', path, body);
  }

  patch(path: string, body: unknown): Promise<Tried> {
    return this.call('PATCH', path, body);
  }

  /** Does calls that must succeed. */
  async all(...calls: readonly (readonly [HttpRequest['method'], string, unknown])[]): Promise<void> {
    for (const [method, path, body] of calls) {
      const { fault } = await this.call(method, path, body);
      if (fault !== null) throw new Error(`${method} ${path}: ${fault}`);
    }
  }

  /** Furnishes and starts it: a kernel, a root device, vsock; and what else is put before. */
  async boot(
    bootArgs = 'console=ttyS0 reboot=k panic=-1',
    ...more: readonly (readonly [HttpRequest['method'], string, unknown])[]
  ): Promise<void> {
    this.uds = this.#in.socket();
    await this.all(
      ['PUT', '/serial', { serial_out_path: this.#in.path('console') }],
      ['PUT', '/boot-source', { kernel_image_path: this.#in.path('kernel'), boot_args: bootArgs }],
      [
        'PUT',
        '/drives/root',
        { drive_id: 'root', is_root_device: true, path_on_host: this.#in.path('disk') },
      ],
      ['PUT', '/vsock', { guest_cid: 3, uds_path: this.uds }],
      ...more,
      ['PUT', '/actions', { action_type: 'InstanceStart' }],
    );
  }
}
