/** Why something is given up whose caller has gone: nobody hears of it any more, and it is nobody's defect. */
export class HungUp extends Error {
  override readonly name = 'HungUp';
  constructor() {
    super('the caller hung up');
  }
}

/** Whether an error came of a caller's going, however it was wrapped. */
export function cameOfHangUp(error: unknown): boolean {
  for (let one = error; one instanceof Error; one = one.cause) if (one instanceof HungUp) return true;
  return false;
}
