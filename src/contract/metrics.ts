import { Type, type Static } from 'typebox';
import { Time, VmId } from './common.ts';

const Seconds = (description: string) => Type.Number({ minimum: 0, description });
const Count = (description: string) => Type.Integer({ minimum: 0, description });

export const VmMetrics = Type.Object(
  {
    vm_id: VmId,
    at: Time,
    uptime_seconds: Seconds(
      'How long the VM has been awake: since its hypervisor was started, by its last start, reboot or wake.',
    ),
    cpu_seconds: Seconds('Processor time used since then, the hypervisor’s own work included.'),
    memory: Type.Object(
      {
        mem_mib: Count('What the guest has been given, in MiB.'),
        resident_bytes: Count(
          'What the host holds for it now. A guest touches its memory bit by bit, and the hypervisor has some of its own.',
        ),
      },
      { additionalProperties: false },
    ),
    block: Type.Object(
      {
        read_bytes: Count('Read from its disks, since its hypervisor was started.'),
        written_bytes: Count('Written to its disks, since its hypervisor was started.'),
      },
      { additionalProperties: false },
    ),
    net: Type.Optional(
      Type.Object(
        {
          received_bytes: Count('What reached the guest.'),
          received_packets: Count('What reached the guest.'),
          sent_bytes: Count('What the guest sent, whether or not it was let through.'),
          sent_packets: Count('What the guest sent, whether or not it was let through.'),
        },
        {
          additionalProperties: false,
          description:
            'As the host counts it at the guest’s network card, since the last start or wake; a reboot does not begin anew. Absent ' +
            'where the VM has no network.',
        },
      ),
    ),
  },
  {
    $id: 'VmMetrics',
    additionalProperties: false,
    description: 'What a running VM has used.',
    examples: [
      {
        vm_id: 'vm-abc123def456',
        at: '2026-03-06T10:30:00Z',
        uptime_seconds: 3610.52,
        cpu_seconds: 14.2,
        memory: { mem_mib: 512, resident_bytes: 241_172_480 },
        block: { read_bytes: 125_829_120, written_bytes: 3_563_520 },
        net: { received_bytes: 1_258_291, received_packets: 912, sent_bytes: 307_200, sent_packets: 401 },
      },
    ],
  },
);
export type VmMetrics = Static<typeof VmMetrics>;
