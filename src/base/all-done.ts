/** Resolves when all are done. Rejects with the error of the first in the list that failed, and only when none of them goes on. */
export async function allDone(works: readonly Promise<unknown>[]): Promise<void> {
  await Promise.allSettled(works);
  await Promise.all(works);
}
