import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  contains,
  firstFree,
  formatIp,
  isHost,
  makeMac,
  overlaps,
  parseCidr,
  parseIp,
  parseMac,
  planAddresses,
  whyNotHost,
} from './cidr.ts';

const anyAddress = fc.integer({ min: 0, max: 2 ** 32 - 1 });

/** A plan of any allowed size, its gateway anywhere a host may be. */
const anyPlan = fc
  .tuple(anyAddress, fc.integer({ min: 16, max: 29 }), fc.nat())
  .map(([address, prefix, where]) => {
    const size = 2 ** (32 - prefix);
    const first = address - (address % size);
    return planAddresses(`${formatIp(first + 1 + (where % (size - 2)))}/${prefix}`);
  });

test('an address written and read again is the same', () => {
  fc.assert(fc.property(anyAddress, (address) => parseIp(formatIp(address)) === address));
});

test('what reads as an address is written back as it was', () => {
  const octet = fc.oneof(
    fc.integer({ min: 0, max: 300 }).map(String),
    fc.constantFrom('010', '00', '', '+1', '1e1', '0x1', ' 1', '١'),
  );
  fc.assert(
    fc.property(
      fc.array(octet, { minLength: 3, maxLength: 5 }),
      fc.constantFrom('', '\n', ' ', '/24'),
      (octets, end) => {
        const text = octets.join('.') + end;
        const read = parseIp(text);
        return read === undefined || formatIp(read) === text;
      },
    ),
  );
});

test('addresses with leading zeros, line breaks or too large numbers are refused', () => {
  for (const text of [
    '010.0.0.1',
    '10.0.0.01',
    '10.0.0.1\n',
    ' 10.0.0.1',
    '10.0.0',
    '10.0.0.256',
    '10.0.0.1.1',
    '',
    '::1',
  ]) {
    assert.equal(parseIp(text), undefined, JSON.stringify(text));
  }
  assert.equal(parseIp('255.255.255.255'), 2 ** 32 - 1);
  assert.equal(parseIp('0.0.0.0'), 0);
});

test('a network holds exactly the addresses with its leading bits', () => {
  fc.assert(
    fc.property(anyAddress, fc.integer({ min: 0, max: 32 }), anyAddress, (address, prefix, other) => {
      const cidr = parseCidr(`${formatIp(address)}/${prefix}`);
      assert.ok(cidr);
      const bits = (value: number): string => value.toString(2).padStart(32, '0').slice(0, prefix);
      assert.equal(contains(cidr, formatIp(other)), bits(address) === bits(other));
      assert.equal(contains(cidr, formatIp(address)), true);
    }),
  );
});

test('networks overlap when one holds the other', () => {
  const cidr = (text: string): NonNullable<ReturnType<typeof parseCidr>> => {
    const parsed = parseCidr(text);
    assert.ok(parsed);
    return parsed;
  };
  assert.equal(overlaps(cidr('10.0.0.0/8'), cidr('10.1.2.0/24')), true);
  assert.equal(overlaps(cidr('10.1.2.0/24'), cidr('10.0.0.0/8')), true);
  assert.equal(overlaps(cidr('10.1.2.0/24'), cidr('10.1.3.0/24')), false);
  assert.equal(cidr('10.1.2.3').text, '10.1.2.3/32');
});

test('malformed networks are refused', () => {
  for (const text of [
    '10.0.0.1/33',
    '10.0.0.1/',
    '10.0.0.1/08',
    '10.0.0.1/-1',
    '10.0.0.1/24/8',
    '10.0.0.1/24\n',
    '/24',
    '10.0.0.1/1e1',
  ]) {
    assert.equal(parseCidr(text), undefined, JSON.stringify(text));
  }
});

test('a plan knows its network, broadcast and mask', () => {
  assert.deepEqual(planAddresses('192.168.241.1/24'), {
    text: '192.168.241.1/24',
    net: parseCidr('192.168.241.0/24'),
    gateway: '192.168.241.1',
    network: '192.168.241.0',
    broadcast: '192.168.241.255',
    netmask: '255.255.255.0',
  });
});

test('a plan outside the allowed sizes, or on no host address, is refused with a sentence', () => {
  assert.throws(() => planAddresses('10.0.0.1/15'), /between \/16 and \/29/);
  assert.throws(() => planAddresses('10.0.0.1/30'), /between \/16 and \/29/);
  assert.throws(() => planAddresses('10.0.0.1'), /an address and a prefix/);
  assert.throws(() => planAddresses('010.0.0.1/24'), /an address and a prefix/);
  assert.throws(() => planAddresses('10.0.0.0/24'), /network's own address; .* 10\.0\.0\.1\/24/);
  assert.throws(() => planAddresses('10.0.0.255/24'), /broadcast address/);
});

test('every address of the plan but the gateway, network and broadcast is a host', () => {
  fc.assert(
    fc.property(anyPlan, anyAddress, (plan, other) => {
      for (const ip of [plan.gateway, plan.network, plan.broadcast]) assert.equal(isHost(plan, ip), false);
      const inside = formatIp(plan.net.first + (other % (plan.net.last - plan.net.first + 1)));
      assert.equal(isHost(plan, inside), ![plan.gateway, plan.network, plan.broadcast].includes(inside));
      assert.equal(isHost(plan, formatIp(other)) && !contains(plan.net, formatIp(other)), false);
    }),
  );
});

test('a refused address is told why', () => {
  const plan = planAddresses('192.168.241.1/24');
  assert.match(whyNotHost(plan, '192.168.241.1') ?? '', /bridge's own/);
  assert.match(whyNotHost(plan, '192.168.241.0') ?? '', /network's own/);
  assert.match(whyNotHost(plan, '192.168.241.255') ?? '', /broadcast/);
  assert.match(whyNotHost(plan, '10.0.0.1') ?? '', /between 192\.168\.241\.1 and 192\.168\.241\.254/);
  assert.match(whyNotHost(plan, '192.168.241.010') ?? '', /without leading zeros/);
  assert.equal(whyNotHost(plan, '192.168.241.10'), undefined);
});

test('taking the first free address again and again gives every host once, then none', () => {
  const small = fc
    .tuple(anyAddress, fc.integer({ min: 24, max: 29 }), fc.nat())
    .map(([address, prefix, where]) => {
      const size = 2 ** (32 - prefix);
      return planAddresses(`${formatIp(address - (address % size) + 1 + (where % (size - 2)))}/${prefix}`);
    });
  fc.assert(
    fc.property(small, (plan) => {
      const taken = new Set<string>();
      for (let ip = firstFree(plan, taken); ip !== undefined; ip = firstFree(plan, taken)) {
        assert.equal(isHost(plan, ip) && !taken.has(ip), true);
        taken.add(ip);
      }
      assert.equal(taken.size, 2 ** (32 - plan.net.prefix) - 3);
    }),
    { numRuns: 30 },
  );
});

test('VMs begin at .10 in a net of more than 16 hosts, else at the lowest address, and wrap to the lower ones', () => {
  assert.equal(firstFree(planAddresses('192.168.241.1/24'), new Set()), '192.168.241.10');
  assert.equal(firstFree(planAddresses('192.168.241.1/24'), new Set(['192.168.241.10'])), '192.168.241.11');
  assert.equal(firstFree(planAddresses('192.168.241.10/24'), new Set()), '192.168.241.11');
  assert.equal(firstFree(planAddresses('10.9.0.1/16'), new Set()), '10.9.0.10');
  assert.equal(firstFree(planAddresses('10.0.0.33/27'), new Set()), '10.0.0.42');
  assert.equal(firstFree(planAddresses('10.0.0.17/28'), new Set()), '10.0.0.18');
  assert.equal(firstFree(planAddresses('10.0.0.2/29'), new Set()), '10.0.0.1');
  const upper = new Set(Array.from({ length: 245 }, (_, i) => `192.168.241.${10 + i}`));
  assert.equal(firstFree(planAddresses('192.168.241.1/24'), upper), '192.168.241.2');
});

test('made MACs are of our prefix and are read as they are', () => {
  for (let i = 0; i < 50; i++) {
    const mac = makeMac();
    assert.match(mac, /^02:fc:/);
    assert.equal(parseMac(mac), mac);
  }
});

test('only six hex pairs of a unicast address pass, in lower case', () => {
  assert.equal(parseMac('02:FC:00:00:00:0A'), '02:fc:00:00:00:0a');
  for (const text of [
    '00:00:00:00:00:00',
    '01:00:5e:00:00:01',
    'ff:ff:ff:ff:ff:ff',
    '02:fc:00:00:00:01\n',
    '\n02:fc:00:00:00:01',
    '02:fc:00:00:00:01,10.0.0.1',
    '02-fc-00-00-00-01',
    '02fc00000001',
    '2:fc:00:00:00:01',
    '02:fc:00:00:00',
    '02:fc:00:00:00:0g',
    '',
  ]) {
    assert.equal(parseMac(text), undefined, JSON.stringify(text));
  }
});

test('no text that is read as a MAC holds anything but hex digits and colons', () => {
  const pair = fc.oneof(
    fc.integer({ min: 0, max: 255 }).map((byte) => byte.toString(16).padStart(2, '0')),
    fc.string({ maxLength: 3 }),
  );
  fc.assert(
    fc.property(
      fc.array(pair, { minLength: 5, maxLength: 7 }),
      fc.constantFrom('', '\n', ' ', '\r'),
      (pairs, end) => {
        const read = parseMac(pairs.join(':') + end);
        return read === undefined || /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.exec(read)?.[0].length === 17;
      },
    ),
  );
});
