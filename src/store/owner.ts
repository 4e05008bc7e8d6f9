/** Who may write a VM: its owner of the time. A write whose host or epoch is not the row's changes nothing. */
export interface Owner {
  readonly hostId: string;
  readonly epoch: number;
}
