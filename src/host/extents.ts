import { stat } from 'node:fs/promises';
import { CommandFailed, run as runCommand, type Run } from './run.ts';

/** A part of a file that may hold something; between two there are only zeros. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

/**
 * lseek(2) with SEEK_DATA and SEEK_HOLE, which Node has no way to call, by the perl that every Debian and Ubuntu has
 * (perl-base is essential there). Extents with less than 16 KiB between them are one.
 */
const SCRIPT = `
use strict; open(my $file, '<', $ARGV[0]) or die "open: $!\\n";
my ($size, $at, $from, $end) = (-s $file, 0);
while ($at < $size) {
  my $data = sysseek($file, $at, 3);
  unless (defined $data) { last if $!{ENXIO}; die "seek: $!\\n" }
  my $hole = sysseek($file, $data, 4); defined $hole or die "seek: $!\\n";
  ($data, $hole) = ($data + 0, $hole + 0);
  if (defined $from && $data - $end < 16384) { $end = $hole }
  else { print "$from $end\\n" if defined $from; ($from, $end) = ($data, $hole) }
  $at = $hole;
}
print "$from $end\\n" if defined $from;
`;

/**
 * Where a file holds something, in order. Where nothing better can be learnt (no perl, a file system that does not say) it
 * is the whole file: a caller must look for zeros itself.
 */
export async function dataExtents(
  path: string,
  { signal, run = runCommand }: { readonly signal?: AbortSignal | undefined; readonly run?: Run } = {},
): Promise<readonly Extent[]> {
  const { size, blocks } = await stat(path);
  if (size === 0) return [];
  const whole = [{ offset: 0, length: size }];
  if (blocks * 512 >= size) return whole;
  const extents: Extent[] = [];
  try {
    await run(['perl', '-MErrno', '-e', SCRIPT, path], {
      timeoutMs: 60_000,
      ...(signal && { signal }),
      onLine: (line, stream) => {
        const [offset, end] = line.split(' ').map(Number);
        if (stream === 'stdout' && offset !== undefined && end !== undefined && end > offset)
          extents.push({ offset, length: Math.min(end, size) - offset });
      },
    });
  } catch (error) {
    if (error instanceof CommandFailed) return whole;
    throw error;
  }
  return extents;
}
