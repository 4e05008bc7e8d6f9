import type { Clock } from '../base/clock.ts';
import type { OpenUse, WayIn } from '../model/activity.ts';
import type { Span, Use } from './use.ts';

/** The ways in that threads lead, each with its own places in the memory. */
const WAYS = ['http', 'upgrade'] as const satisfies readonly WayIn[];
export type SharedWay = (typeof WAYS)[number];

// 32-bit words: whether uses may begin, how many ever began, and by way: how many are open, whether one began since they were drained.
const [GATE, VERSION, OPEN, FRESH, WORDS] = [0, 1, 2, 4, 6];
// Times after them, 64 bits each, by way: the first begin since they were drained, the last payload, the last begin or end.
const [SINCE, PAYLOAD, LAST, TIMES] = [0, 2, 4, 6];
const TIMES_AT = 8 * Math.ceil((WORDS * 4) / 8);

class Cells {
  readonly words: Int32Array;
  /** Written by the thread alone, each before the word that tells of it; 64 bits in their place are read and written whole. */
  readonly times: Float64Array;

  constructor(memory: SharedArrayBuffer) {
    this.words = new Int32Array(memory, 0, WORDS);
    this.times = new Float64Array(memory, TIMES_AT, TIMES);
  }
}

/**
 * The uses of one VM that one thread of this process begins by itself, in memory it has together with the tracker, so that a request to a
 * guest that runs asks nobody. A thread first counts its use and then looks at the gate; the tracker first closes the gate and then looks at
 * the count. So one of them always sees the other: a use begun as the VM falls asleep is seen, or has to ask.
 */
export class SharedUses {
  /** What the thread is given. */
  readonly memory = new SharedArrayBuffer(TIMES_AT + TIMES * 8);
  readonly #cells = new Cells(this.memory);
  #retired = false;
  #drainedAt = -Infinity;
  #openWhenDrained: readonly boolean[] = WAYS.map(() => false);

  constructor() {
    this.#cells.times.fill(-Infinity);
  }

  /** Lets uses begin, unless it is retired. */
  open(): void {
    if (!this.#retired) Atomics.store(this.#cells.words, GATE, 1);
  }

  /** Lets none begin any more: the thread has to ask. */
  close(): void {
    Atomics.store(this.#cells.words, GATE, 0);
  }

  /** Closes it for good. */
  retire(): void {
    this.#retired = true;
    this.close();
  }

  /** Its thread is gone, and its uses with it. */
  abandon(): void {
    this.retire();
    WAYS.forEach((_, way) => Atomics.store(this.#cells.words, OPEN + way, 0));
  }

  /** Whether nothing comes of it any more. */
  get isOver(): boolean {
    return this.#retired && WAYS.every((_, way) => this.#open(way) === 0);
  }

  /** Goes up with every use that begins. */
  get version(): number {
    return Atomics.load(this.#cells.words, VERSION) >>> 0;
  }

  /** When a use last began or ended; -Infinity: never. */
  get lastUsedAt(): number {
    return Math.max(...WAYS.map((_, way) => this.#time(LAST, way)));
  }

  /** The uses that are open; of all of a way the latest payload is known. */
  uses(): readonly OpenUse[] {
    return WAYS.flatMap((by, way) => {
      const use = { by, since: this.#time(SINCE, way), lastPayloadAt: this.#time(PAYLOAD, way) };
      return Array.from({ length: this.#open(way) }, () => use);
    });
  }

  /** When it was used by each way since this was asked last, as good as without a break. */
  drain(now: number): readonly Span[] {
    const spans = WAYS.flatMap((by, way): Span[] => {
      const fresh = Atomics.exchange(this.#cells.words, FRESH + way, 0) === 1;
      const goesOn = this.#openWhenDrained[way] === true;
      if (!fresh && !goesOn) return [];
      const until = this.#open(way) > 0 ? now : this.#time(LAST, way);
      const from = goesOn ? this.#drainedAt : this.#time(SINCE, way);
      return [{ by, from: Math.min(from, until), until }];
    });
    this.#openWhenDrained = WAYS.map((_, way) => this.#open(way) > 0);
    this.#drainedAt = now;
    return spans;
  }

  #open(way: number): number {
    return Atomics.load(this.#cells.words, OPEN + way);
  }

  #time(what: number, way: number): number {
    return this.#cells.times[what + way] ?? -Infinity;
  }
}

/** The thread's side of SharedUses. */
export class UsesOfThread {
  readonly #cells: Cells;
  readonly #clock: Pick<Clock, 'steady'>;

  /** `memory`: that of a SharedUses; `clock` shows the same as the tracker's. */
  constructor(memory: SharedArrayBuffer, clock: Pick<Clock, 'steady'>) {
    this.#cells = new Cells(memory);
    this.#clock = clock;
  }

  /** Whether the VM may be come to without asking; a use has to be begun to be sure. */
  get isOpen(): boolean {
    return Atomics.load(this.#cells.words, GATE) === 1;
  }

  /** Begins a use; undefined: that has to be asked for. */
  begin(by: SharedWay): Use | undefined {
    const { words, times } = this.#cells;
    const way = WAYS.indexOf(by);
    const now = this.#clock.steady();
    // Before it is counted: a connection that has just begun is not to be seen as one that has long been silent.
    times[PAYLOAD + way] = now;
    Atomics.add(words, OPEN + way, 1);
    Atomics.add(words, VERSION, 1);
    if (!this.isOpen) {
      Atomics.sub(words, OPEN + way, 1);
      return undefined;
    }
    if (Atomics.load(words, FRESH + way) === 0) {
      times[SINCE + way] = now;
      Atomics.store(words, FRESH + way, 1);
    }
    times[LAST + way] = now;
    let ended = false;
    return {
      payload: () => {
        times[PAYLOAD + way] = this.#clock.steady();
      },
      end: () => {
        if (ended) return;
        ended = true;
        times[LAST + way] = this.#clock.steady();
        Atomics.sub(words, OPEN + way, 1);
      },
    };
  }
}
