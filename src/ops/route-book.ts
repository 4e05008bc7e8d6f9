import type { Clock } from '../base/clock.ts';
import type { Route, RouteName } from '../model/route.ts';
import type { Store } from '../store/store.ts';

/** Another host may have changed a route: what was read is believed so long, in milliseconds. */
const BELIEVED_MS = 1000;
const MOST_KNOWN = 10_000;

interface Known {
  readonly route: Route;
  readonly until: number;
}

/** Routes by their names, as they were just read: a request does not wait for the database where another has come a moment before. */
export class RouteBook {
  readonly #store: Pick<Store, 'routes'>;
  readonly #clock: Clock;
  readonly #known = new Map<string, Known>();
  #edition = 0;

  constructor({ store, clock }: { readonly store: Pick<Store, 'routes'>; readonly clock: Clock }) {
    this.#store = store;
    this.#clock = clock;
  }

  /** The route of this name if it was just read; undefined: it has to be looked for. */
  known(name: RouteName): Route | undefined {
    const known = this.#known.get(keyOf(name));
    return known && known.until > this.#clock.now() ? known.route : undefined;
  }

  /** The route of this name; null: there is none. */
  async find(name: RouteName): Promise<Route | null> {
    const known = this.known(name);
    if (known) return known;
    const edition = this.#edition;
    const route = await this.#store.routes.byName(name);
    // One that was changed while it was read is read again the next time.
    if (route && edition === this.#edition) this.#keep(keyOf(name), route);
    return route;
  }

  /** Routes were changed here: nothing that was read before is believed. */
  forget(): void {
    this.#edition++;
    this.#known.clear();
  }

  #keep(key: string, route: Route): void {
    if (this.#known.size >= MOST_KNOWN) this.#known.clear();
    this.#known.set(key, { route, until: this.#clock.now() + BELIEVED_MS });
  }
}

/** No domain begins with a dot. */
function keyOf({ subdomain, domain }: RouteName): string {
  return subdomain === null ? domain : `.${subdomain}`;
}
