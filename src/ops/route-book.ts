import type { Clock } from '../base/clock.ts';
import type { Route, RouteName } from '../model/route.ts';
import type { Store } from '../store/store.ts';

/** Another host may have changed a route: what was read is believed so long, in milliseconds. */
const BELIEVED_MS = 1000;
const MOST_KNOWN = 10_000;

interface Known {
  readonly route: Route;
  readonly until: number;
  readonly edition: number;
}

interface Deps {
  readonly store: { readonly routes: Pick<Store['routes'], 'byName'> };
  readonly clock: Clock;
  /** That of another book, in another thread, which is told of changes for both; undefined: its own. */
  readonly edition?: SharedArrayBuffer;
}

/** Routes by their names, as they were just read: a request does not wait for the database where another has come a moment before. */
export class RouteBook {
  readonly #store: Deps['store'];
  readonly #clock: Clock;
  readonly #known = new Map<string, Known>();
  readonly #edition: Int32Array;
  /** Memory another book may have too. */
  readonly edition: SharedArrayBuffer;

  constructor({ store, clock, edition = new SharedArrayBuffer(4) }: Deps) {
    this.#store = store;
    this.#clock = clock;
    this.edition = edition;
    this.#edition = new Int32Array(edition);
  }

  /** The route of this name if it was just read; undefined: it has to be looked for. */
  known(name: RouteName): Route | undefined {
    const known = this.#known.get(keyOf(name));
    if (!known || known.edition !== this.#now() || known.until <= this.#clock.steady()) return undefined;
    return known.route;
  }

  /** The route of this name; null: there is none. */
  async find(name: RouteName): Promise<Route | null> {
    const known = this.known(name);
    if (known) return known;
    const edition = this.#now();
    const route = await this.#store.routes.byName(name);
    // One that was changed while it was read is read again the next time.
    if (route && edition === this.#now()) this.#keep(keyOf(name), { route, edition });
    return route;
  }

  /** Routes were changed here: nothing that was read before is believed. */
  forget(): void {
    Atomics.add(this.#edition, 0, 1);
    this.#known.clear();
  }

  #now(): number {
    return Atomics.load(this.#edition, 0);
  }

  #keep(key: string, read: Pick<Known, 'route' | 'edition'>): void {
    if (this.#known.size >= MOST_KNOWN) this.#known.clear();
    this.#known.set(key, { ...read, until: this.#clock.steady() + BELIEVED_MS });
  }
}

/** No domain begins with a dot. */
function keyOf({ subdomain, domain }: RouteName): string {
  return subdomain === null ? domain : `.${subdomain}`;
}
