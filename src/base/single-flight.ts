/** Joins callers who want the same thing at the same time: the first does it, the others get its result. */
export class SingleFlight<T> {
  readonly #flights = new Map<string, Promise<T>>();

  /** Starts `work` for the key, or joins the one under way. A failure reaches all who joined; the next call starts anew. */
  run(key: string, work: () => Promise<T>): Promise<T> {
    const flying = this.#flights.get(key);
    if (flying) return flying;
    const flight = work().finally(() => this.#flights.delete(key));
    this.#flights.set(key, flight);
    return flight;
  }
}
