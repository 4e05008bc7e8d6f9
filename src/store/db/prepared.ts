import type { Compilable, CompiledQuery, Kysely } from 'kysely';
import type { Tables } from './tables.ts';

/** Stands for a value while a query is compiled. */
class Place {
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}

/**
 * A query that is built and compiled once, the first time, and after that only given its values: building one of forty columns takes
 * longer than SQLite takes to answer it. `build` is given places for the values, and must use each as a value alone: what the query looks like may not depend
 * on them. It is compiled for each engine by itself, and asked of any `db`, a transaction for one.
 */
export function prepared<Args extends Readonly<Record<string, unknown>>, Row>(
  build: (db: Kysely<Tables>, args: Args) => Compilable<Row>,
): (db: Kysely<Tables>, args: Args) => Promise<readonly Row[]> {
  // By the class of the dialect's adapter, which all databases of an engine have in common.
  const ready = new WeakMap<object, CompiledQuery<Row>>();
  return async (db, args) => {
    const { constructor: engine } = db.getExecutor().adapter;
    let compiled = ready.get(engine);
    if (!compiled) {
      const places = new Proxy({} as Args, { get: (_target, name) => new Place(String(name)) });
      ready.set(engine, (compiled = build(db, places).compile()));
    }
    const parameters = compiled.parameters.map((value) =>
      value instanceof Place ? args[value.name] : value,
    );
    return (await db.executeQuery<Row>({ ...compiled, parameters })).rows;
  };
}
