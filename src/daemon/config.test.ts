import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BadConfig, describeConfig, readConfig } from './config.ts';

const read = (env: Record<string, string>): ReturnType<typeof readConfig>['values'] => readConfig(env).values;

function problemsOf(env: Record<string, string>): readonly string[] {
  try {
    readConfig(env);
  } catch (error) {
    assert.ok(error instanceof BadConfig);
    return error.problems;
  }
  return [];
}

test('an empty environment gives the documented defaults', () => {
  const values = read({ PATH: '/bin', HOME: '/root' });
  assert.deepEqual(values.HATCH_HTTP_ADDR, { host: '127.0.0.1', port: 8080 });
  assert.equal(values.HATCH_VMM, 'auto');
  assert.equal(values.HATCH_BRIDGE_CIDR.text, '192.168.241.1/24');
  assert.deepEqual([values.HATCH_SSH_PORT_MIN, values.HATCH_SSH_PORT_MAX], [2200, 3199]);
  assert.deepEqual(values.HATCH_SSH_ALLOWED_CIDR, ['127.0.0.1/32']);
  assert.equal(values.HATCH_IDLE_TIMEOUT, 45 * 60_000);
  assert.equal(values.HATCH_MAX_VMS_PER_ACCOUNT, 50);
  assert.equal(values.DATABASE_URL, undefined);
});

test('an unknown HATCH_ name is an error that suggests the nearest', () => {
  assert.deepEqual(problemsOf({ HATCH_DATADIR: '/x' }), [
    'HATCH_DATADIR is not a setting of Hatch. Did you mean HATCH_DATA_DIR?',
  ]);
  const hint = (name: string): string => problemsOf({ [name]: 'x' })[0]?.split(' of Hatch. ')[1] ?? '';
  assert.equal(hint('HATCH_DATABASE_URL'), 'Did you mean DATABASE_URL?');
  assert.equal(hint('HATCH_BRIGDE_CIDR'), 'Did you mean HATCH_BRIDGE_CIDR?');
  assert.equal(hint('HATCH_HTTP_ADDRESS'), 'Did you mean HATCH_HTTP_ADDR?');
  assert.equal(hint('HATCH_COLOUR'), '`hatchd config` lists them all.');
  assert.deepEqual(problemsOf({ HATCH_API_KEY: 'x', HATCH_URL: 'y' }), []);
});

test('every value that will not do is named with what is allowed, all at once', () => {
  const bad: Record<string, string> = {
    HATCH_HTTP_ADDR: '8080',
    HATCH_VMM: 'xen',
    HATCH_BRIDGE_CIDR: '192.168.241.1/30',
    HATCH_BRIDGE_NAME: 'a-name-too-long-for-linux',
    HATCH_SSH_PORT_MIN: '0',
    HATCH_DEFAULT_VCPU: '33',
    HATCH_DEFAULT_MEM_MIB: '1e3',
    HATCH_EGRESS: 'some',
    HATCH_SSH_ALLOWED_CIDR: '10.0.0.0/33',
    HATCH_IDLE_TIMEOUT: '45',
    HATCH_DNS_SERVERS: '::1',
    HATCH_PROXY_BASE_DOMAIN: 'https://hatch.example',
    DATABASE_URL: 'mysql://x',
    HATCH_SNAPSHOT_STORE: 's3://bucket/../other',
    HATCH_S3_ENDPOINT: 'https://key:hunter2@s3.example',
  };
  const problems = problemsOf(bad);
  assert.equal(problems.length, Object.keys(bad).length);
  for (const name of Object.keys(bad)) {
    const problem = problems.find((one) => one.startsWith(`${name} `));
    assert.match(problem ?? '', /must|not an address|prefix/, name);
  }
});

test('the domain routes hang under is a host name with room for a label before it', () => {
  const domain = (text: string): string => read({ HATCH_PROXY_BASE_DOMAIN: text }).HATCH_PROXY_BASE_DOMAIN;
  assert.equal(domain('Hatch.Example.COM'), 'hatch.example.com');
  assert.equal(domain('localhost'), 'localhost');
  const long = `${'a.'.repeat(93)}com`;
  assert.equal(domain(long), long);
  for (const bad of [`a.${long}`, '.example.com', 'example.com:80', '10.0.0.1', '*.example.com'])
    assert.match(problemsOf({ HATCH_PROXY_BASE_DOMAIN: bad }).join(), /must be a domain such as/, bad);
});

test('settings that need each other are refused alone', () => {
  assert.match(problemsOf({ HATCH_DEFAULT_KERNEL_PATH: '/k' }).join(), /set together/);
  assert.match(
    problemsOf({ HATCH_SSH_PORT_MIN: '3000', HATCH_SSH_PORT_MAX: '2000' }).join(),
    /must not be above/,
  );
  assert.match(problemsOf({ HATCH_S3_ACCESS_KEY: 'key' }).join(), /HATCH_S3_SECRET_KEY must be set together/);
  assert.match(
    problemsOf({ HATCH_PROXY_TLS_KEY: '/key' }).join(),
    /HATCH_PROXY_TLS_KEY must be set together/,
  );
  assert.deepEqual(problemsOf({ HATCH_VM_UID_MIN: '70000' }), [
    'HATCH_VM_UID_MIN must not be above HATCH_VM_UID_MAX.',
  ]);
});

test('where snapshots are stored is a folder, or a bucket with a prefix that ends in a slash', () => {
  const store = (text: string): unknown =>
    readConfig({ HATCH_SNAPSHOT_STORE: text }).values.HATCH_SNAPSHOT_STORE;
  assert.deepEqual(store('dir:/srv/hatch'), { kind: 'dir', path: '/srv/hatch' });
  assert.deepEqual(store('s3://bucket'), { kind: 's3', bucket: 'bucket', prefix: '' });
  assert.deepEqual(store('s3://bucket/'), { kind: 's3', bucket: 'bucket', prefix: '' });
  assert.deepEqual(store('s3://my.bucket/a//b'), { kind: 's3', bucket: 'my.bucket', prefix: 'a/b/' });
  for (const bad of ['/srv/hatch', 'dir:', 's3:bucket', 's3://', 's3://b', 's3://bucket/ä', 'gs://bucket'])
    assert.match(problemsOf({ HATCH_SNAPSHOT_STORE: bad }).join(), /must be dir:PATH or s3:/, bad);
  assert.equal(readConfig({}).values.HATCH_SNAPSHOT_STORE, undefined);
});

test('secrets are hidden, wherever they come from', () => {
  const env = {
    DATABASE_URL: 'postgres://hatch:secret@db/hatch',
    HATCH_S3_ACCESS_KEY: 'AKIA',
    HATCH_S3_SECRET_KEY: 'secret',
  };
  const rows = describeConfig(env, readConfig(env));
  assert.ok(!JSON.stringify(rows).includes('secret@'));
  assert.equal(rows.find((row) => row.name === 'HATCH_S3_SECRET_KEY')?.value, '(hidden)');
  assert.equal(rows.find((row) => row.name === 'DATABASE_URL')?.source, 'environment');
  assert.doesNotMatch(problemsOf({ DATABASE_URL: 'mysql://u:hunter2@h' }).join(), /hunter2/);
  assert.doesNotMatch(problemsOf({ HATCH_S3_ENDPOINT: 'https://u:hunter2@h' }).join(), /hunter2/);
});

test("a database's URL is shown without what may be a secret", () => {
  const shown = (url: string): string | null | undefined => {
    const env = { DATABASE_URL: url };
    return describeConfig(env, readConfig(env)).find((row) => row.name === 'DATABASE_URL')?.value;
  };
  const cases: [url: string, shown: string][] = [
    ['sqlite:/var/lib/hatch/hatch.db', 'sqlite:/var/lib/hatch/hatch.db'],
    ['postgres://hatch:hunter2@db.example:5433/hatch', 'postgres://hatch:***@db.example:5433/hatch'],
    ['postgres://hatch@db/hatch?password=hunter2&sslmode=require', 'postgres://hatch@db/hatch?***'],
    ['postgresql://hatch:hunter2@/hatch?host=/run/postgresql', 'postgresql://hatch:***@/hatch?***'],
    ['postgres://hatch:hunter2@%2Frun%2Fpostgresql/hatch', 'postgres://hatch:***@%2Frun%2Fpostgresql/hatch'],
    ['postgres://hatch:hunter2@[::1]:5432/hatch', 'postgres://hatch:***@[::1]:5432/hatch'],
    ['postgres:///hatch', 'postgres:///hatch'],
    ['postgres://hatch:@hunter2@db/hatch', '(hidden)'],
    ['postgres://hatch:hunter2@db/hatch#hunter2', 'postgres://hatch:***@db/hatch?***'],
  ];
  for (const [url, expected] of cases) assert.equal(shown(url), expected);
});

test('a value that is used where nothing is set is shown as the default', () => {
  const rows = describeConfig({}, readConfig({}), { HATCH_HOST_NAME: 'here' });
  const row = rows.find(({ name }) => name === 'HATCH_HOST_NAME');
  assert.deepEqual([row?.value, row?.source], ['here', 'default']);
});
