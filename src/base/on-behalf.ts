import { AsyncLocalStorage } from 'node:async_hooks';

/**
 * Whose request something is done for: what a request began bears its id through all it waits for, so that what is logged on the
 * way is found by it. Carried by the runtime itself, since a parameter would go through every function there is.
 */
const requests = new AsyncLocalStorage<string>();

/** Runs `work`, and all it begins, on behalf of a request. */
export function onBehalfOf<T>(requestId: string, work: () => T): T {
  return requests.run(requestId, work);
}

/** The id of the request this is done for; undefined where nobody asked. */
export function requestId(): string | undefined {
  return requests.getStore();
}
