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
 * on them.
 */
export function prepared<Args extends Readonly<Record<string, unknown>>, Row>(
  db: Kysely<Tables>,
  build: (args: Args) => Compilable<Row>,
): (args: Args) => Promise<readonly Row[]> {
  let compiled: CompiledQuery<Row> | undefined;
  return async (args) => {
    compiled ??= build(new Proxy({} as Args, { get: (_target, name) => new Place(String(name)) })).compile();
    const parameters = compiled.parameters.map((value) =>
      value instanceof Place ? args[value.name] : value,
    );
    return (await db.executeQuery<Row>({ ...compiled, parameters })).rows;
  };
}
