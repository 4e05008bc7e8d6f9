import { spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { errnoText, osError } from './musl.ts';

/**
 * TUNSETIFF (linux/if_tun.h) with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR on the file that is open as 3. Node knows no ioctl; perl
 * (perl-base, which every Debian has) does it and ends, and the interface stays with the open file, which is ours. So the
 * kernel itself says when a TAP is busy or not ours, and gives it back in the moment this process ends, as it does with
 * Firecracker. And as there, root that asks for a TAP that is not there gets a new one, gone with the process.
 */
const ATTACH = `open(my $tun, '+<&=', 3) or die $!;
my $request = pack('a16 s x22', $ARGV[0], 0x5002);
ioctl($tun, 0x400454ca, $request) or do { print $! + 0; exit 1 };`;

/** Opens a TAP as a network device's other end. What it throws is what Firecracker says of it. */
export class Tap {
  readonly #fd: number;

  constructor(name: string) {
    let fd: number;
    try {
      fd = openSync('/dev/net/tun', 'r+');
    } catch (error) {
      throw new Error(`Open tap device failed: Couldn't open /dev/net/tun: ${osError(error)}`, {
        cause: error,
      });
    }
    try {
      attach(fd, name);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    this.#fd = fd;
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function attach(fd: number, name: string): void {
  if (Buffer.byteLength(name) >= 16) throw new Error('Open tap device failed: Invalid interface name');
  const { status, stdout, stderr, error } = spawnSync('/usr/bin/perl', ['-', name], {
    // Neither -e nor 'ignore': both would open /dev/null, which a jail has not.
    input: ATTACH,
    stdio: ['pipe', 'pipe', 'pipe', fd],
    encoding: 'utf8',
    env: {},
  });
  if (status === 0) return;
  if (status !== 1)
    throw new Error(`the double could not ask for a TAP: ${error?.message ?? stderr}`, { cause: error });
  throw new Error(
    `Open tap device failed: Error while creating ifreq structure: ${errnoText(Number(stdout))}. ` +
      `Invalid TUN/TAP Backend provided by ${name}. Check our documentation on setting up the network devices.`,
  );
}
