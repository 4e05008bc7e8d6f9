import { Type, type Static } from 'typebox';
import {
  AccountId,
  BootArgs,
  DiskMib,
  Everyone,
  Idle,
  IdlePatch,
  ImageId,
  Labels,
  MemMib,
  Name,
  orNull,
  PAGE_FIELDS,
  TemplateId,
  Time,
  UserData,
  VcpuCount,
  VmId,
} from './common.ts';
import { SnapshotName } from './snapshot.ts';

/** The six states of a VM. */
export const VmState = Type.Enum(['starting', 'running', 'stopping', 'stopped', 'snapshotted', 'error'], {
  description:
    '`starting`: being made or launched; `running`: the hypervisor runs the guest; `stopping`: shutting down; `stopped`: ' +
    'off, everything kept; `snapshotted`: asleep in a snapshot; `error`: see `state_reason`.',
});
export type VmState = Static<typeof VmState>;

const OCTET = '(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])';
const GuestIp = Type.String({
  pattern: `^${OCTET}(?:\\.${OCTET}){3}$`,
  'x-rule': 'an IPv4 address in dotted decimal without leading zeros, such as 192.168.241.50',
  description: 'The IPv4 address of the guest, inside the bridge’s network; the next free one when left out.',
  examples: ['192.168.241.50'],
});
const GuestMac = Type.String({
  pattern: '^(?!00:00:00:00:00:00$)[0-9A-Fa-f][02468ACEace](?::[0-9A-Fa-f]{2}){5}$',
  'x-rule':
    'six pairs of hexadecimal digits joined by colons, neither multicast nor all zero, such as 02:fc:00:00:00:32',
  description: 'The MAC address of the guest, unicast; made when left out. Kept in lower case.',
  examples: ['02:fc:00:00:00:32'],
});
const SshKey = Type.String({
  maxLength: 8192,
  pattern:
    '^(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-ssh-ed25519@openssh\\.com|' +
    'sk-ecdsa-sha2-nistp256@openssh\\.com) +AAAA[A-Za-z0-9+/]{12,}={0,3}(?: [^\\u0000-\\u001f\\u007f]*)?$',
  'x-rule':
    'one line as in a .pub file: ssh-ed25519, ssh-rsa, ecdsa-sha2-nistp256/384/521 or an sk- type, the key in base64, and ' +
    'perhaps a comment, without a line break at its end',
  description: 'A public key as it stands in a `.pub` file, on one line without its line break.',
  examples: ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ0bXlrZXlieXRlc2FyZWhlcmVmb3Jyb29t me@example.com'],
});

const Autostart = Type.Boolean({
  default: false,
  description:
    'Whether it is started again when the host has rebooted while it ran. Absent in answers where it is not.',
});

export const CreateVm = Type.Object(
  {
    name: Type.Optional(
      Type.String({
        ...Name,
        description:
          'A name, unique in the account and usable wherever an id is: 1 to 63 lower-case letters, digits and inner dashes.',
      }),
    ),
    image_id: Type.Optional(
      Type.String({ ...ImageId, description: 'The image; else the template’s, else `img-default`.' }),
    ),
    template_id: Type.Optional(
      Type.String({ ...TemplateId, description: 'A template; it serves where this request is silent.' }),
    ),
    snapshot_id: Type.Optional(
      Type.String({
        ...SnapshotName,
        description:
          'Start as a copy of that snapshot, under an identity of its own. Then no image, template, kernel arguments, user ' +
          'data, keys, CPUs or memory may be said; the disk may only grow.',
      }),
    ),
    vcpu_count: Type.Optional(Type.Integer({ ...VcpuCount, description: 'Virtual CPUs; 1 when left out.' })),
    mem_mib: Type.Optional(Type.Integer({ ...MemMib, description: 'Memory in MiB; 512 when left out.' })),
    disk_mib: Type.Optional(DiskMib),
    boot_args: Type.Optional(BootArgs),
    enable_network: Type.Optional(
      Type.Boolean({
        default: true,
        description: 'False: no address, no TAP device, no DHCP, no SSH port.',
      }),
    ),
    guest_ip: Type.Optional(GuestIp),
    guest_mac: Type.Optional(GuestMac),
    user_data: Type.Optional(UserData),
    ssh_authorized_keys: Type.Optional(
      Type.Array(SshKey, {
        maxItems: 32,
        description: 'Public keys for the image’s default user, whatever the user data says.',
      }),
    ),
    idle: Type.Optional(IdlePatch),
    autostart: Type.Optional(Autostart),
    labels: Type.Optional(Labels),
  },
  {
    $id: 'CreateVm',
    additionalProperties: false,
    description: 'What the VM is to be. Everything may be left out: `{}` makes a VM of the default image.',
    examples: [
      {},
      { vcpu_count: 2, mem_mib: 2048, name: 'web-1' },
      { template_id: 'tpl-web-server' },
      { snapshot_id: 'snap-abc123def456', name: 'copy-1' },
    ],
  },
);
export type CreateVm = Static<typeof CreateVm>;

export const PatchVm = Type.Object(
  {
    name: Type.Optional(orNull(Name)),
    labels: Type.Optional(Labels),
    idle: Type.Optional(orNull(IdlePatch)),
    autostart: Type.Optional(Autostart),
    vcpu_count: Type.Optional(VcpuCount),
    mem_mib: Type.Optional(MemMib),
    disk_mib: Type.Optional(DiskMib),
  },
  {
    $id: 'PatchVm',
    additionalProperties: false,
    description:
      'What is to change. `name` null takes the name away, `idle` null goes back to the server’s policy, `labels` replaces ' +
      'all of them. Size (`vcpu_count`, `mem_mib`, `disk_mib`) changes only while the VM is stopped.',
    examples: [{ name: 'web-2', labels: { tier: 'web' } }],
  },
);
export type PatchVm = Static<typeof PatchVm>;

export const StopVm = Type.Object(
  {
    grace_seconds: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: 600,
        default: 30,
        description: 'How long the guest has to shut down before it is killed, in seconds. 0: at once.',
      }),
    ),
  },
  { $id: 'StopVm', additionalProperties: false, examples: [{}, { grace_seconds: 10 }] },
);
export type StopVm = Static<typeof StopVm>;

/** The body of a call that takes none: nothing at all, or `{}`. */
export const NoFields = Type.Object(
  {},
  { $id: 'NoFields', additionalProperties: false, description: 'Nothing; the body may be left out.' },
);

export const StateReason = Type.Object(
  {
    code: Type.String({ description: 'For programs: `guest_panic`, `vmm_exited`, `forced_stop`...' }),
    message: Type.String({ description: 'For people.' }),
    at: Time,
  },
  {
    $id: 'StateReason',
    additionalProperties: false,
    description:
      'Why the VM is in `error`, why the guest of one that runs stands still (`no_space`), or how it stopped when it had to be forced.',
  },
);

export const Vm = Type.Object(
  {
    id: VmId,
    image_id: ImageId,
    state: VmState,
    vcpu_count: VcpuCount,
    mem_mib: MemMib,
    guest_ip: Type.Optional(Type.String({ format: 'ipv4', description: 'Absent without a network.' })),
    guest_mac: Type.Optional(Type.String({ description: 'Absent without a network.' })),
    ssh_port: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 65535,
        description: 'The host’s port that leads to the guest’s SSH. Absent without a network.',
      }),
    ),
    enable_network: Type.Boolean(),
    created_at: Time,
    updated_at: Time,
    name: Type.Optional(Name),
    template_id: Type.Optional(TemplateId),
    parent_snapshot_id: Type.Optional(
      Type.String({ pattern: '^snap-[a-z0-9]{12}$', description: 'The snapshot it was made from.' }),
    ),
    disk_mib: Type.Optional(DiskMib),
    boot_args: Type.Optional(BootArgs),
    labels: Type.Optional(Labels),
    idle: Type.Optional(Idle),
    autostart: Type.Optional(Autostart),
    ready: Type.Boolean({
      description: 'Whether the guest’s agent or its SSH port has answered since it was last started.',
    }),
    ready_at: Type.Optional(Time),
    operation: Type.Optional(
      Type.Enum(
        ['creating', 'starting', 'stopping', 'rebooting', 'deleting', 'snapshotting', 'restoring', 'forking'],
        { description: 'What is under way on it; absent when nothing is.' },
      ),
    ),
    state_reason: Type.Optional(StateReason),
    last_active_at: Type.Optional(Time),
    vmm: Type.Optional(Type.String({ description: 'The hypervisor that runs it.', examples: ['qemu'] })),
    accel: Type.Optional(
      Type.String({ description: 'How its CPUs run: `kvm` or `tcg` (emulated).', examples: ['kvm'] }),
    ),
    host: Type.Optional(Type.String({ description: 'The host that owns it.' })),
    account_id: Type.Optional(
      Type.String({ ...AccountId, description: 'Whose it is; in lists of all accounts.' }),
    ),
  },
  {
    $id: 'Vm',
    additionalProperties: false,
    description: 'A VM. Fields without a value are absent.',
    examples: [
      {
        id: 'vm-abc123def456',
        image_id: 'img-default',
        state: 'running',
        vcpu_count: 1,
        mem_mib: 512,
        guest_ip: '192.168.241.10',
        guest_mac: '02:fc:00:00:00:01',
        ssh_port: 2200,
        enable_network: true,
        created_at: '2026-03-06T10:30:00Z',
        updated_at: '2026-03-06T10:30:00Z',
        ready: true,
        ready_at: '2026-03-06T10:30:20Z',
      },
    ],
  },
);
export type Vm = Static<typeof Vm>;

export const VmParams = Type.Object(
  {
    id: Type.String({
      pattern: '^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$',
      'x-rule': 'a VM’s id (vm-abc123def456) or its name',
      description: 'The VM’s id or its name.',
      examples: ['vm-abc123def456'],
    }),
  },
  { additionalProperties: false },
);

const waitFields = {
  wait: Type.Optional(
    Type.Enum(['ready', 'running'], {
      description:
        'Hold the answer back until the VM is running, or until its guest has answered (`ready`). When the time is over: 504, ' +
        'and the VM is left as it is.',
    }),
  ),
  timeout: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: 600,
      default: 60,
      description: 'How long to wait at most, in seconds. Only with `wait`.',
    }),
  ),
};
export const WaitQuery = Type.Object(waitFields, { additionalProperties: false });
export type WaitQuery = Static<typeof WaitQuery>;

export const VmListQuery = Type.Object(
  {
    ...PAGE_FIELDS,
    state: Type.Optional(VmState),
    label: Type.Optional(
      Type.Array(
        Type.String({
          pattern: '^[A-Za-z0-9][A-Za-z0-9._/-]*=',
          'x-rule': 'a label and its value, as key=value',
        }),
        {
          maxItems: 32,
          description: 'Only VMs with this label, as `key=value`; may be given more than once.',
        },
      ),
    ),
    all: Type.Optional(Everyone),
  },
  { additionalProperties: false },
);

export const ConsoleQuery = Type.Object(
  {
    tail: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: 1_048_576,
        default: 65_536,
        description: 'How many of the last bytes, at most.',
      }),
    ),
    follow: Type.Optional(
      Type.Boolean({ default: false, description: 'Go on with what comes, until the caller hangs up.' }),
    ),
  },
  { additionalProperties: false },
);
