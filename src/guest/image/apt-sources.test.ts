import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildSources, debianMirrors, PUBLIC_MIRRORS, transportOptions } from './apt-sources.ts';

test("the machine's own mirror is used, in the one-line format", () => {
  const text = `# deb http://old.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] https://mirror.example/debian/ trixie main contrib
deb-src https://src.example/debian trixie main
deb https://mirror.example/debian-security trixie-security main
deb https://other.example/tools stable main
`;
  assert.deepEqual(debianMirrors([{ name: 'sources.list', text }]), {
    archive: 'https://mirror.example/debian',
    security: 'https://mirror.example/debian-security',
  });
});

test("the machine's own mirror is used, in the deb822 format", () => {
  const text = `Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs:
 http://sec.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
`;
  assert.deepEqual(debianMirrors([{ name: 'debian.sources', text }]), {
    archive: 'http://mirror.example/debian',
    security: 'http://sec.example/debian-security',
  });
});

test('another distribution, discs and folders give the public mirror', () => {
  const text = `deb http://archive.ubuntu.com/ubuntu noble main
deb cdrom:[Debian]/ bookworm main
deb file:/srv/debian bookworm main
deb https://packages.example/apt cloud-sdk-bookworm main
`;
  assert.deepEqual(debianMirrors([{ name: 'sources.list', text }]), PUBLIC_MIRRORS);
  assert.deepEqual(debianMirrors([]), PUBLIC_MIRRORS);
});

test('the lines to build from name the suite, the keys and all three archives', () => {
  assert.deepEqual(buildSources(PUBLIC_MIRRORS, 'bookworm', '/k.gpg'), [
    'deb [signed-by=/k.gpg] http://deb.debian.org/debian bookworm main',
    'deb [signed-by=/k.gpg] http://deb.debian.org/debian bookworm-updates main',
    'deb [signed-by=/k.gpg] http://deb.debian.org/debian-security bookworm-security main',
  ]);
});

test('of the settings of apt only those that say how to reach a mirror are taken over', () => {
  const dump = `APT "";
Acquire::http::Proxy "http://proxy.example:3128/";
Acquire::https::Proxy::mirror.example "DIRECT";
Acquire::http::Proxy-Auto-Detect "/usr/bin/detect";
Acquire::https::Timeout "20";
Acquire::Check-Valid-Until "false";
Acquire::AllowInsecureRepositories "1";
DPkg::Post-Invoke:: "rm -f /x";
Acquire::http "";
`;
  assert.deepEqual(transportOptions(dump), [
    'Acquire::http::Proxy "http://proxy.example:3128/";',
    'Acquire::https::Proxy::mirror.example "DIRECT";',
    'Acquire::http::Proxy-Auto-Detect "/usr/bin/detect";',
    'Acquire::https::Timeout "20";',
    'Acquire::Check-Valid-Until "false";',
  ]);
});
