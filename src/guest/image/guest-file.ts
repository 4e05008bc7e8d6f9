/** A file of the guest that no package brings. */
export interface GuestFile {
  readonly path: string;
  readonly content: string;
  /** Runs as a program. */
  readonly executable?: true;
}
