import { statfs } from 'node:fs/promises';
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Meter } from '../api/meter.ts';
import { readIfThere } from '../host/files.ts';
import type { OperationId } from '../base/ids.ts';
import type { HatchEvent, Operation } from '../model/records.ts';
import { VM_STATES } from '../model/vm.ts';
import type { NewEvent, Store } from '../store/store.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
/** Upper bounds of what requests and operations take, in seconds. */
const REQUEST_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60];
const OPERATION_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

/** What is looked at when the figures are asked for. */
export interface Sights {
  readonly hostId: string;
  readonly store: Pick<Store, 'vms'>;
  /** The folder whose disk is told of. */
  readonly folder: string;
  /** In MiB; null: guests have no limit. */
  readonly budgetMib: number | null;
}

/** The figures of the daemon for Prometheus: requests, operations, wakes and sleeps since it started, VMs and the host as they are. */
export class Prometheus implements Meter {
  readonly #registry = new Registry();
  readonly #requests = this.#counter('hatch_http_requests_total', 'Requests to the API that were answered', [
    'method',
    'route',
    'status',
  ]);
  readonly #requestSeconds = this.#histogram(
    'hatch_http_request_seconds',
    'How long their answers took',
    ['method', 'route'],
    REQUEST_SECONDS,
  );
  readonly #operations = this.#counter('hatch_operations_total', 'Operations on VMs that have ended', [
    'operation',
    'outcome',
  ]);
  readonly #operationSeconds = this.#histogram(
    'hatch_operation_seconds',
    'How long they took',
    ['operation', 'outcome'],
    OPERATION_SECONDS,
  );
  readonly #wakes = this.#counter('hatch_wakes_total', 'Wakes of VMs, by the way of who came', ['by']);
  readonly #wakeSeconds = this.#histogram(
    'hatch_wake_seconds',
    'How long the first who came waited for a wake',
    ['by'],
    OPERATION_SECONDS,
  );
  readonly #wakesRefused = this.#counter(
    'hatch_wakes_refused_total',
    'Visitors who were turned away from VMs that do not run; of one VM those of a minute are counted together',
    ['by', 'code'],
  );
  readonly #sleeps = this.#counter('hatch_sleeps_total', 'VMs that went to sleep', ['action', 'reason']);
  readonly #sleepsRefused = this.#counter(
    'hatch_sleeps_refused_total',
    'VMs that nobody used and that stayed awake, each time the reason changed',
    ['reason'],
  );
  readonly #noRoom = this.#counter(
    'hatch_no_room_total',
    "Requests for which the guests' memory had no room",
    ['operation'],
  );
  readonly #begun = new Map<OperationId, Pick<Operation, 'verb' | 'createdAt'>>();
  /** What has ended while those that have not were read, by each who reads. */
  readonly #reading = new Set<Set<OperationId>>();
  readonly #now: () => number;

  /** `now`: milliseconds since 1970. */
  constructor({ version, now }: { readonly version: string; readonly now: () => number }) {
    this.#now = now;
    collectDefaultMetrics({ register: this.#registry });
    const info = new Gauge({
      name: 'hatch_info',
      help: 'This server',
      labelNames: ['version'],
      registers: [this.#registry],
    });
    info.set({ version }, 1);
  }

  request({ method, route = 'none', status, ms }: Parameters<Meter['request']>[0]): void {
    this.#requests.inc({ method, route, status: String(status) });
    this.#requestSeconds.observe({ method, route }, ms / 1000);
  }

  text(): Promise<string> {
    return this.#registry.metrics();
  }

  /** Has VMs and host told of from now on, each time the figures are asked for. */
  watch({ hostId, store, folder, budgetMib }: Sights): void {
    const vms = this.#gauge('hatch_vms', 'VMs of this host, by their states', ['state'], async () => {
      const all = await store.vms.ofHost(hostId);
      for (const state of VM_STATES) vms.set({ state }, all.filter((vm) => vm.state === state).length);
    });
    const memory = this.#gauge('hatch_host_memory_bytes', "The host's memory", ['kind'], async () => {
      const text = (await readIfThere('/proc/meminfo')) ?? '';
      for (const [kind, name] of [
        ['total', 'MemTotal'],
        ['available', 'MemAvailable'],
      ] as const) {
        const kib = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1];
        if (kib !== undefined) memory.set({ kind }, Number(kib) * KIB);
      }
    });
    const disk = this.#gauge(
      'hatch_data_disk_bytes',
      'The disk the data folder is on',
      ['kind'],
      async () => {
        const { bsize, blocks, bavail } = await statfs(folder);
        disk.set({ kind: 'total' }, blocks * bsize);
        disk.set({ kind: 'available' }, bavail * bsize);
      },
    );
    if (budgetMib === null) return;
    this.#gauge('hatch_memory_budget_bytes', 'What running guests may take of the memory').set(
      budgetMib * MIB,
    );
  }

  /** The same store; what is written of operations, wakes and sleeps is counted once it is. */
  counting(store: Store): Store {
    const { vms, operations, events } = store;
    return {
      ...store,
      vms: {
        ...vms,
        create: async (...how) => {
          const made = await vms.create(...how);
          this.#begun.set(made.operation.id, made.operation);
          return made;
        },
      },
      operations: {
        ...operations,
        begin: async (...how) => {
          const operation = await operations.begin(...how);
          this.#begun.set(operation.id, operation);
          return operation;
        },
        unfinished: async (...how) => {
          const ended = new Set<OperationId>();
          this.#reading.add(ended);
          try {
            const left = await operations.unfinished(...how);
            for (const one of left) if (!ended.has(one.id)) this.#begun.set(one.id, one);
            return left;
          } finally {
            this.#reading.delete(ended);
          }
        },
        finish: async (id, outcome, error) => {
          await operations.finish(id, outcome, error);
          this.#finished(id, outcome);
        },
      },
      events: {
        ...events,
        add: async (event: NewEvent): Promise<HatchEvent> => {
          const added = await events.add(event);
          this.#happened(event);
          return added;
        },
      },
    };
  }

  #finished(id: OperationId, outcome: string): void {
    for (const ended of this.#reading) ended.add(id);
    const begun = this.#begun.get(id);
    if (!begun) return;
    this.#begun.delete(id);
    const labels = { operation: begun.verb, outcome };
    this.#operations.inc(labels);
    this.#operationSeconds.observe(labels, Math.max(0, this.#now() - begun.createdAt) / 1000);
  }

  #happened({ kind, data = {} }: NewEvent): void {
    const word = (name: string): string => {
      const value = data[name];
      return typeof value === 'string' ? value : 'unknown';
    };
    const number = (name: string): number => (typeof data[name] === 'number' ? data[name] : 1);
    switch (kind) {
      case 'vm.woken':
        this.#wakes.inc({ by: word('by') });
        return this.#wakeSeconds.observe({ by: word('by') }, number('waited_ms') / 1000);
      case 'vm.wake_refused':
        return this.#wakesRefused.inc({ by: word('by'), code: word('code') }, number('times'));
      case 'vm.slept':
        return this.#sleeps.inc({ action: word('action'), reason: word('reason') });
      case 'vm.sleep_refused':
        return this.#sleepsRefused.inc({ reason: word('reason') });
      case 'vm.no_room':
        return this.#noRoom.inc({ operation: word('verb') }, number('times'));
    }
  }

  #counter<Label extends string>(name: string, help: string, labelNames: readonly Label[]): Counter<Label> {
    return new Counter({ name, help, labelNames: [...labelNames], registers: [this.#registry] });
  }

  #gauge<Label extends string>(
    name: string,
    help: string,
    labelNames: readonly Label[] = [],
    collect: () => Promise<void> = async () => undefined,
  ): Gauge<Label> {
    const gauge: Gauge<Label> = new Gauge({
      name,
      help,
      labelNames: [...labelNames],
      registers: [this.#registry],
      // What cannot be seen now is not told; the rest is.
      collect: () => collect().catch(() => gauge.reset()),
    });
    return gauge;
  }

  #histogram<Label extends string>(
    name: string,
    help: string,
    labelNames: readonly Label[],
    buckets: number[],
  ): Histogram<Label> {
    return new Histogram({ name, help, labelNames: [...labelNames], buckets, registers: [this.#registry] });
  }
}
